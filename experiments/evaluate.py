"""Judge a run: `python -m experiments.evaluate RUN [--samples N] [--guidance-scale S] ...`.

One set of samples, as many as there are training examples and in their class proportions, is compared with the real
splits in the features of judge classifiers (see `experiments.scores`), beside a Gaussian sampler for each class.
"""

import dataclasses
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from etils import epath

from experiments import cli, pictures, report, run_directory
from experiments.data import Images
from experiments.errors import UserError
from experiments.hardware import describe_devices, versions
from experiments.judge import Judge, train_judge
from experiments.model import load
from experiments.recipe import Sampler
from experiments.scores import compare, gaussian_baseline, proportional_labels

SHOWN = (
    "frechet",
    "frechet_std",
    "class_consistency",
    "precision",
    "recall",
    "density",
    "coverage",
    "memorisation_ratio",
)
BASELINE = "Gaussian per class"


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


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    arguments = cli.run_arguments(Arguments, "python -m experiments.evaluate", argv)
    run, sampler = epath.Path(arguments.run), arguments.sampler
    model, params, step = load(run, step=arguments.step, unfinished=arguments.unfinished)
    options = model.recipe.evaluation
    images = model.recipe.data.load(_say)
    if images.checksum != model.info.checksum:
        raise UserError(
            f"{run} was trained on data with checksum {model.info.checksum[:12]}, but {images.name} now has "
            f"{images.checksum[:12]}; restore the data, or train anew"
        )
    count = arguments.samples or options.samples or len(images.train)
    if count > len(images.train):
        raise UserError(f"--samples must be at most the {len(images.train)} training examples, got {count}")
    train, train_labels = _arrays(images.train)
    test, test_labels = _arrays(images.test)
    labels = None if train_labels is None else proportional_labels(train_labels, count)

    began = time.perf_counter()
    draw = {"sampler": sampler, "seed": arguments.seed, "batch_size": options.batch_size}
    model.draw(params, None if labels is None else labels[: options.batch_size], min(count, options.batch_size), **draw)
    compiled = time.perf_counter()
    samples, nfe = model.draw(params, labels, count, **draw)
    drawn = time.perf_counter()
    _say(f"drew {count} samples in {drawn - compiled:.1f} s (first batch with compilation: {compiled - began:.1f} s)")
    judges = [_judge(images, train, train_labels, seed) for seed in range(arguments.judges or options.judges)]
    sets = {
        "model": (samples, labels),
        BASELINE: (gaussian_baseline(train, train_labels, labels, arguments.seed), labels),
    }
    if labels is None:
        sets[BASELINE] = (sets[BASELINE][0][:count], None)
    figures = compare(sets, train, train_labels, test, test_labels, judges)

    result = {
        "about": {
            "samples": count,
            "checkpoint": step,
            "solver": type(sampler.solver).__name__,
            "steps": sampler.steps,
            "guidance_scale": sampler.guidance_scale,
            "nfe": nfe,
            "seed": arguments.seed,
            "precision": getattr(model.recipe.network, "dtype", "float32"),
            "samples_per_second": round(count / (drawn - compiled), 1),
            "hardware": describe_devices(jax.devices()[:1]),
            "versions": versions(),
            "data": images.name,
            "checksum": images.checksum,
        },
        "shown": list(SHOWN),
        "sets": figures,
    }
    run_directory.write_json(run / "evaluation.json", result)
    first = (
        np.arange(min(count, 64))
        if labels is None
        else np.concatenate([np.flatnonzero(labels == k)[:10] for k in np.unique(labels)])
    )
    (run / "evaluation.png").write_bytes(pictures.grid(samples[first], 8 if labels is None else 10))
    report.write(run)
    print(table(figures))
    print(f"{run / 'evaluation.json'}, {run / 'report.html'}")
    return result


def table(figures: dict[str, dict[str, Any]]) -> str:
    """The shown figures, a column for each set."""
    number = lambda value: "-" if value is None else f"{value:.3f}"
    width = max(len(name) for name in figures) + 2
    lines = [" " * 20 + "".join(f"{name:>{width}}" for name in figures)]
    lines += [f"{key:20}" + "".join(f"{number(row[key]):>{width}}" for row in figures.values()) for key in SHOWN]
    return "\n".join(lines)


def _judge(images: Images, train: np.ndarray, labels: np.ndarray | None, seed: int) -> Judge:
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "jaxdiff" / "judges"
    began = time.perf_counter()
    judge = train_judge(train, labels, len(images.classes), seed=seed, cache_dir=cache)
    _say(f"judge {seed} ready in {time.perf_counter() - began:.1f} s")
    return judge


def _arrays(split: Any) -> tuple[np.ndarray, np.ndarray | None]:
    return np.asarray(split.images[:]), None if split.labels is None else np.asarray(split.labels)


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    cli.program(main)
