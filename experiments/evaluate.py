"""Judge a run: `python -m experiments.evaluate RUN [--samples N] [--guidance-scale S] ...`."""

import dataclasses
import functools
import sys
from collections.abc import Sequence
from typing import Any

from etils import epath

from experiments import cli, reconstruction
from experiments.evaluation import evaluate, table
from experiments.hardware import choose_devices
from experiments.loading import read_config
from experiments.networks import Autoencoder
from experiments.recipe import Given
from experiments.restoration import evaluation as restoration
from experiments.text import answers
from experiments.text import evaluation as text


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(cli.SampleArguments):
    """Compare samples of a trained run with its real data; of text, also its likelihood with that of n-grams; of an
    autoencoder, its reconstructions with those of other codes."""

    samples: int | None = None
    """Samples to draw; None for the recipe's number, usually that of the training examples."""
    regressor: str | None = None
    """Of a run that restores pictures: another run to compare with, which answers at once."""
    pictures: int = 1_000
    """Of a run that restores pictures: how many of the test split."""
    judges: int | None = None
    """Judge classifiers to average over; None for the recipe's number."""
    windows: int = 400
    """Windows of the test text for the likelihood, at most."""
    draws: int = 64
    """Noisy copies of each window for the likelihood."""


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    arguments = cli.run_arguments(Arguments, "python -m experiments.evaluate", argv)
    options: dict[str, Any] = vars(arguments) | {"devices": choose_devices(arguments.devices)}
    recipe, info = read_config(epath.Path(arguments.run))
    of_text, of_restoring = {"windows", "draws"}, {"regressor", "pictures"}
    if recipe.conditions.restores:
        options["count"] = arguments.pictures
        leave_out, judge, draw = of_text | {"samples", "judges", "pictures"}, restoration.evaluate, restoration.table
    elif isinstance(recipe.network, Autoencoder):
        leave_out = of_text | of_restoring | {"sampler", "samples", "judges", "seed", "devices"}
        judge, draw = reconstruction.evaluate, reconstruction.table
    elif info.tokenizer is None:
        leave_out, judge, draw = of_text | of_restoring, evaluate, table
    else:
        say = lambda line: print(line, file=sys.stderr)
        given = isinstance(recipe.data, Given)
        leave_out = {"judges"} | of_restoring | (of_text if given else set())
        judge, draw = functools.partial(answers.evaluate if given else text.evaluate, say=say), text.table
    result = judge(**{name: value for name, value in options.items() if name not in leave_out})
    print(draw(result))
    print(f"{arguments.run}/evaluation.json, {arguments.run}/report.html")
    return result


if __name__ == "__main__":
    cli.program(main)
