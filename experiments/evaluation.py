"""How a run is judged: one set of samples against the real splits, beside a Gaussian sampler for each class.

The set has as many samples as there are training examples, in their class proportions; `experiments.scores` says what
is compared. Needs neither the command line nor a data library: pictures come in as `Images`.
"""

import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from etils import epath

from experiments import pictures, pixel_models, report, run_directory
from experiments.bounds import bound
from experiments.data import Images
from experiments.data.levels import from_levels, to_levels
from experiments.errors import UserError
from experiments.hardware import describe_devices, versions
from experiments.judge import Judge, train_judge
from experiments.loading import check_same, load
from experiments.model import Model
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
RECONSTRUCTED = "training pictures through the autoencoder"  # of runs in latents: as good as they can become
_BOUNDED, _DRAWS = 1_000, 32  # pictures for the likelihood, and noisy copies of each


def evaluate(
    run: epath.PathLike,
    images: Images | None = None,
    *,
    sampler: Sampler | None = None,
    samples: int | None = None,
    judges: int | None = None,
    seed: int = 0,
    step: int | None = None,
    unfinished: bool = False,
    sigma_rel: float | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> dict[str, Any]:
    """Judge the run in `run`; leaves evaluation.json, evaluation.png and a new report.html there.

    Args:
        images: the data it was trained on; the recipe's own, loaded here, by default.
        sampler, samples, judges: the recipe's own by default; `samples` falls back to as many as training examples.
        seed: of the samples.
        step, unfinished, sigma_rel: which parameters, see `experiments.loading.load`.
        devices: local ones to share the samples; one by default.

    Returns:
        What evaluation.json holds: `about`, `shown`, and `sets`, the figures of the model and of the baseline.

    Raises:
        UserError: no such run or checkpoint, other data than it was trained on, or more samples than training examples.
    """
    run = epath.Path(run)
    model, params, step = load(run, step=step, unfinished=unfinished, sigma_rel=sigma_rel)
    options = model.recipe.evaluation
    sampler = sampler or model.recipe.sampler
    images = images or cast(Images, model.recipe.data.load(_say))
    check_same(run, model, images)
    count = samples or options.samples or len(images.train)
    if count > len(images.train):
        raise UserError(f"--samples must be at most the {len(images.train)} training examples, got {count}")
    train, train_labels = _arrays(images.train)
    test, test_labels = _arrays(images.test)
    if levels := model.recipe.levels:
        train, test = (from_levels(to_levels(split, levels), levels) for split in (train, test))
    known = train_labels if model.info.classes else None  # a model that is told no classes is judged without
    labels = None if known is None else proportional_labels(known, count)

    began = time.perf_counter()
    draw = {"sampler": sampler, "seed": seed, "batch_size": options.batch_size, "devices": devices}
    model.draw(params, None if labels is None else labels[: options.batch_size], min(count, options.batch_size), **draw)
    compiled = time.perf_counter()
    drawn, nfe = model.draw(params, labels, count, **draw)
    done = time.perf_counter()
    _say(f"drew {count} samples in {done - compiled:.1f} s (first batch with compilation: {compiled - began:.1f} s)")
    panel = [judge_of(images, train, train_labels, seed) for seed in range(judges or options.judges)]
    sets = {
        "model": (drawn, labels),
        BASELINE: (gaussian_baseline(train, train_labels, labels, seed), labels),
    }
    if model.codec is not None:
        kept = np.random.default_rng(seed).permutation(len(train))[:count]
        known = None if train_labels is None else train_labels[kept]
        sets[RECONSTRUCTED] = (model.codec.decode(model.codec.encode(train[kept])), known)
    if labels is None:
        sets[BASELINE] = (sets[BASELINE][0][:count], None)
    figures = compare(sets, train, train_labels, test, test_labels, panel)

    result = {
        "about": {
            "samples": count,
            "checkpoint": step,
            "solver": type(sampler.solver).__name__,
            "steps": sampler.steps,
            "guidance_scale": sampler.guidance_scale,
            "nfe": nfe,
            "seed": seed,
            "precision": getattr(model.recipe.network, "dtype", "float32"),
            "samples_per_second": round(count / (done - compiled), 1),
            "hardware": describe_devices(jax.devices()[:1]),
            "versions": versions(),
            "data": images.name,
            "checksum": images.checksum,
        },
        "shown": list(SHOWN),
        "sets": figures,
    }
    if levels:
        known, unseen = to_levels(train, levels), to_levels(test, levels)
        result["likelihood"] = _likelihood(model, params, known, unseen, test_labels, seed)
    run_directory.write_json(run / "evaluation.json", result)
    first = (
        np.arange(min(count, 64))
        if labels is None
        else np.concatenate([np.flatnonzero(labels == k)[:10] for k in np.unique(labels)])
    )
    (run / "evaluation.png").write_bytes(pictures.grid(drawn[first], 8 if labels is None else 10))
    report.write(run)
    return result


def table(result: dict[str, Any]) -> str:
    """The shown figures of `evaluate`'s result, a column for each set; below them the likelihood of tokens."""
    figures = result["sets"]
    number = lambda value: "-" if value is None else f"{value:.3f}"
    width = max(len(name) for name in figures) + 2
    lines = [" " * 20 + "".join(f"{name:>{width}}" for name in figures)]
    lines += [f"{key:20}" + "".join(f"{number(row[key]):>{width}}" for row in figures.values()) for key in SHOWN]
    sets = {name: row for name, row in result.get("likelihood", {}).items() if isinstance(row, dict)}
    for name, row in sets.items():
        error = f" +- {row['nats_error']:.2f}" if "nats_error" in row else ""
        lines.append(f"nats a test picture, {name}: {row['nats']:.2f}{error}")
    return "\n".join(lines)


def _likelihood(
    model: Model, params: Any, train: np.ndarray, test: np.ndarray, labels: np.ndarray | None, seed: int
) -> dict[str, Any]:
    """Nats a picture of the test split: the model's bound given the class, and exact figures of counting."""
    chosen = np.linspace(0, len(test) - 1, min(len(test), _BOUNDED)).round().astype(int)
    rows, size = test[chosen], math.prod(test.shape[1:])
    began = time.perf_counter()
    nats, error = bound(model, params, rows, None if labels is None else labels[chosen], draws=_DRAWS, seed=seed)
    _say(f"bound of {len(rows)} pictures in {time.perf_counter() - began:.0f} s")
    counted = {"each pixel alone": pixel_models.independent, "earlier neighbours": pixel_models.neighbours}
    found = {name: {"nats": size * count(train, rows, model.info.tokens)} for name, count in counted.items()}
    return {"pictures": len(rows), "draws": _DRAWS, "model": {"nats": size * nats, "nats_error": size * error}, **found}


def judge_of(images: Images, train: np.ndarray, labels: np.ndarray | None, seed: int) -> Judge:
    """The judge of a data set with this seed, from the cache or trained now."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "jaxdiff" / "judges"
    began = time.perf_counter()
    judge = train_judge(train, labels, len(images.classes), seed=seed, cache_dir=cache)
    _say(f"judge {seed} ready in {time.perf_counter() - began:.1f} s")
    return judge


def _arrays(split: Any) -> tuple[np.ndarray, np.ndarray | None]:
    return np.asarray(split.images[:]), None if split.labels is None else np.asarray(split.labels)


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
