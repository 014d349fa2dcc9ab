"""Judge a run: `python -m experiments.evaluate RUN [--samples N] [--guidance-scale S] ...`."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from experiments import cli
from experiments.evaluation import evaluate, table
from experiments.hardware import choose_devices
from experiments.recipe import Sampler


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """Compare samples of a trained run with its real data."""

    run: Annotated[str, tyro.conf.Suppress]
    sampler: Annotated[Sampler, tyro.conf.arg(name="")]
    samples: int | None = None
    """Samples to draw; None for the recipe's number, usually that of the training examples."""
    judges: int | None = None
    """Judge classifiers to average over; None for the recipe's number."""
    seed: int = 0
    """Of the samples."""
    step: int | None = None
    """Which checkpoint; the newest by default."""
    unfinished: bool = False
    """Use the newest checkpoint of a run that has not finished."""
    sigma_rel: float | None = None
    """Relative length of the parameters' average, from the snapshots of a run with --averages; None for its `ema`."""
    devices: int | None = None
    """Local devices that share the samples; None for all of them."""


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    arguments = cli.run_arguments(Arguments, "python -m experiments.evaluate", argv)
    options: dict[str, Any] = vars(arguments) | {"devices": choose_devices(arguments.devices)}
    result = evaluate(**options)
    print(table(result["sets"]))
    print(f"{arguments.run}/evaluation.json, {arguments.run}/report.html")
    return result


if __name__ == "__main__":
    cli.program(main)
