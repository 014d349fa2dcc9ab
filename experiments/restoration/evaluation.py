"""How well a run restores pictures of the test split that nobody showed it, beside what else could answer.

For each task the same pictures are given to everything: the model draws several samples of each, whose mean is its best
single answer, and is asked once at t = 1, where its denoiser is a regression. Figures are of pictures in [0, 1].
"""

import sys
import time
from collections.abc import Sequence
from typing import Any, cast

import jax
import numpy as np
from etils import epath

from experiments import pictures, report, run_directory
from experiments.data import Images, from_pixels
from experiments.errors import UserError
from experiments.evaluation import judge_of
from experiments.hardware import describe_devices, versions
from experiments.loading import check_same, load
from experiments.model import Model
from experiments.recipe import Sampler
from experiments.restoration.baselines import baselines
from experiments.restoration.tasks import Task, is_trained, tasks_of, told
from jaxdiff import metrics, solvers

SAMPLES, _SHOWN = 8, 12


def evaluate(
    run: epath.PathLike,
    images: Images | None = None,
    *,
    sampler: Sampler | None = None,
    regressor: str | None = None,
    count: int = 1_000,
    seed: int = 0,
    step: int | None = None,
    unfinished: bool = False,
    sigma_rel: float | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> dict[str, Any]:
    """Judge the restorations of `run`; leaves evaluation.json, restored.png and a new report.html there.

    Args:
        images: the data it was trained on; the recipe's own, loaded here, by default.
        sampler: the recipe's own by default.
        regressor: a run of the same conditions to ask once at t = 1, trained with `--times.low 1 --times.high 1`.
        count: pictures of the test split, its first ones.
        seed: of the samples.
        step, unfinished, sigma_rel: which parameters, see `experiments.loading.load`.
        devices: local ones to share the samples; one by default.

    Returns:
        What evaluation.json holds: `about`, and `tasks`, for each the figures of every answer.

    Raises:
        UserError: no such run or checkpoint, other data than it was trained on, or a regressor of other conditions.
    """
    run = epath.Path(run)
    model, params, step = load(run, step=step, unfinished=unfinished, sigma_rel=sigma_rel)
    sampler = sampler or model.recipe.sampler
    images = images or cast(Images, model.recipe.data.load(_say))
    check_same(run, model, images)
    tasks = tasks_of(model.recipe.conditions, model.info.shape)
    single = {"model, once": (model, params)}
    if regressor is not None:
        other, weights, _ = load(regressor)
        check_same(epath.Path(regressor), other, images)
        if not all(is_trained(other.recipe.conditions, task.operator) for task in tasks):
            raise UserError(
                f"{regressor} was not trained for {', '.join(task.name for task in tasks)}; train one that was"
            )
        single["regressor"] = (other, weights)
    train, labels = np.asarray(images.train.images[:]), images.train.labels
    judge = None if labels is None else judge_of(images, train, np.asarray(labels), seed)
    test = np.asarray(images.test.images[:count])
    draw = {"sampler": sampler, "seed": seed, "batch_size": model.recipe.evaluation.batch_size, "devices": devices}

    known, truth = _unit(train), _unit(test)
    found: dict[str, Any] = {}
    for task in tasks:
        y = np.asarray(task.operator(jax.numpy.asarray(from_pixels(test))))
        began = time.perf_counter()
        samples, nfe = samples_of(model, params, task, y, SAMPLES, **draw)
        seconds = time.perf_counter() - began
        _say(f"{task.name}: {SAMPLES} samples of {len(test)} pictures in {seconds:.1f} s")
        answers: dict[str, np.ndarray] = baselines(task, known, truth)
        answers |= {name: once(*of, task, y, seed) for name, of in single.items()}
        figures = {name: score(answer, truth, task, judge) for name, answer in answers.items()}
        units = _unit(samples)
        mean = score(units.mean(0), truth, task, None)
        one = score(units[0], truth, task, judge)
        hole = task.hole
        error = metrics.crps(units, truth)
        figures["one sample"] = one
        figures[f"mean of {SAMPLES}"] = mean | {"crps": float(error.mean() if hole is None else error[:, hole].mean())}
        found[task.name] = {"answers": figures, "nfe": nfe, "seconds": round(seconds, 1)}
        sheet = [_measured(task, y, test)[:_SHOWN], *samples[:3, :_SHOWN]]
        sheet += [_pixels(units.mean(0))[:_SHOWN], *(_pixels(a)[:_SHOWN] for a in answers.values()), test[:_SHOWN]]
        name = task.name.replace(" ", "-")
        (run / f"restored-{name}.png").write_bytes(pictures.grid(np.concatenate(sheet), min(_SHOWN, len(test))))

    result = {
        "about": {
            "pictures": len(test),
            "samples": SAMPLES,
            "checkpoint": step,
            "solver": type(sampler.solver).__name__,
            "steps": sampler.steps,
            "seed": seed,
            "hardware": describe_devices(jax.devices()[:1]),
            "versions": versions(),
            "data": images.name,
            "checksum": images.checksum,
        },
        "tasks": found,
    }
    run_directory.write_json(run / "evaluation.json", result)
    report.write(run)
    return result


def samples_of(
    model: Model, params: Any, task: Task, y: np.ndarray, samples: int, **draw: Any
) -> tuple[np.ndarray, int]:
    """`(uint8 samples (S, N, H, W, C), network evaluations of each)` given what was measured."""
    shape = model.info.shape
    given = told(task.operator, np.concatenate([y] * samples), shape)
    drawn, nfe = model.draw(params, count=samples * len(y), **given, **draw)
    return drawn.reshape(samples, len(y), *shape), nfe


def once(model: Model, params: Any, task: Task, y: np.ndarray, seed: int) -> np.ndarray:
    """The denoiser at t = 1 in [0, 1], (N, H, W, C): E[x0] given what was measured, one network evaluation."""
    at_once = Sampler(solver=solvers.DDIM(), grid=model.recipe.sampler.grid, steps=1)
    drawn, _ = model.draw(params, count=len(y), sampler=at_once, seed=seed, **told(task.operator, y, model.info.shape))
    return _unit(drawn)


def score(answer: np.ndarray, truth: np.ndarray, task: Task, judge: Any) -> dict[str, float]:
    """Figures of one answer for each picture, all in [0, 1]: decibels of super-resolution, errors of the hole's pixels.

    With a judge also the Frechet distance of the judge's features to those of the true pictures.
    """
    answer = np.clip(answer, 0, 1)
    if task.hole is None:
        figures = {"psnr": float(metrics.psnr(answer, truth, span=1.0).mean())}
    else:
        figures = {"mse": float(((answer - truth)[:, task.hole] ** 2).mean()), "seam": seam(answer, truth, task.hole)}
    if judge is not None:
        features = lambda x: judge.features(_pixels(x))
        figures["feature_distance"] = metrics.frechet_distance(features(truth), features(answer))
    return figures


def seam(answer: np.ndarray, truth: np.ndarray, hole: np.ndarray) -> float:
    """Steps between neighbouring pixels across the border of the hole (H, W), over those of the truth; 1 is unseen."""

    def across(pictures: np.ndarray) -> float:
        steps = [np.abs(np.diff(pictures, axis=1 + axis))[:, np.diff(hole, axis=axis)] for axis in range(2)]
        return float(np.concatenate([step.ravel() for step in steps]).mean())

    return across(answer) / across(truth)


def table(result: dict[str, Any]) -> str:
    """The figures of `evaluate`'s result, one answer a line."""
    lines = []
    for name, task in result["tasks"].items():
        answers = task["answers"]
        columns = list(dict.fromkeys(key for figures in answers.values() for key in figures))
        width = max(map(len, answers)) + 2
        lines.append(f"{name}: {task['nfe']} network evaluations a sample, {task['seconds']} s")
        lines.append(" " * width + "".join(f"{column:>18}" for column in columns))
        for answer, figures in answers.items():
            numbers = (f"{figures[c]:18.4f}" if c in figures else f"{'-':>18}" for c in columns)
            lines.append(f"{answer:<{width}}" + "".join(numbers))
    return "\n".join(lines)


def _measured(task: Task, y: np.ndarray, test: np.ndarray) -> np.ndarray:
    """What was measured, to look at: with squares for pixels, or a grey hole."""
    if task.hole is not None:
        return np.where(task.hole[None, :, :, None], np.uint8(127), test)
    factor = test.shape[1] // y.shape[1]
    return _pixels((y.repeat(factor, 1).repeat(factor, 2) + 1) / 2)


def _unit(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(pixels, np.float32) / 255


def _pixels(unit: np.ndarray) -> np.ndarray:
    return np.rint(255 * np.clip(unit, 0, 1)).astype(np.uint8)


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
