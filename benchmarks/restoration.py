"""Every method of restoring without training, on one run and the same test pictures, beside what needs no network.

    python -m benchmarks.restoration RUN           RUN: a run on pictures as real numbers, asked without a class
    python -m benchmarks.restoration RUN --redraw  the table again, from the JSON

Super-resolution 4 and 2 times and the hole in the middle, of `--count` pictures, `--samples` samples of each, with DDIM
on `--steps` steps of the uniform grid (RePaint and DPS on Ancestral). Prints a table in Markdown, that of
docs/restoration.md: errors of the mean of the samples and of one, in decibels or as squared error of the hole's pixels,
pictures in [0, 1]; NFE counts network evaluations of a sample, of which a gradient costs as much as two more; seconds
are without compilation.
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import results_file
from benchmarks.progress import Progress
from benchmarks.runs import load
from experiments.conditions import Conditions
from experiments.data import Images, from_pixels
from experiments.model import Model
from experiments.recipe import Sampler
from experiments.restoration.baselines import baselines
from experiments.restoration.evaluation import score
from experiments.restoration.methods import Measured, measure, restore
from experiments.restoration.tasks import Task, tasks_of
from jaxdiff import grids, solvers

RESULTS = Path(__file__).parent / "results" / "restoration.json"
CONDITIONS = Conditions(smaller=(4, 2), holes=("center",))
ANCESTRAL = {"dps", "repaint", "replacement"}
METHODS: dict[str, dict[str, Any]] = {
    "ddnm": {},
    "pigdm": {},
    "mmps": {"iterations": 2},
    "dps": {"scale": 1.0},
    "replacement": {},
    "repaint": {"times": 5},
}


def answer(model: Model, params: Any, measured: Measured, method: str, steps: int, samples: int) -> dict[str, Any]:
    """`{samples (S, N, H, W, C) in [0, 1], nfe, seconds}` of one method."""
    solver = solvers.Ancestral() if method in ANCESTRAL else solvers.DDIM()
    sampler = Sampler(solver=solver, grid=grids.uniform, steps=steps)
    options = {"method": method, "count": samples, "seed": 0, **METHODS[method]}
    restore(model, params, measured, sampler=dataclasses.replace(sampler, grid=_standing), **options)
    began = time.perf_counter()
    drawn, _, nfe = restore(model, params, measured, sampler=sampler, **options)
    seconds = time.perf_counter() - began
    rows = drawn.reshape(-1, samples, *drawn.shape[1:]).swapaxes(0, 1)
    return {"samples": np.clip((rows + 1) / 2, 0, 1), "nfe": nfe, "seconds": round(seconds, 2)}


def _standing(schedule: Any, steps: int) -> jax.Array:
    """A grid that calls no network: equal neighbours do nothing, so what is left is compilation."""
    return jnp.ones_like(grids.uniform(schedule, steps))


def of_task(task: Task, model: Model, params: Any, images: Images, options: argparse.Namespace) -> dict[str, Any]:
    """`{answer: its figures}` of one task."""
    unit = lambda pixels: np.asarray(pixels, np.float32) / 255
    test = np.asarray(images.test.images[: options.count])
    found: dict[str, Any] = {
        name: {"mean": score(estimate, unit(test), task, None)}
        for name, estimate in baselines(task, unit(images.train.images[:]), unit(test)).items()
    }
    measured = measure(task.operator, from_pixels(test), 0.0, 0)
    for method in METHODS:
        if task.hole is None and method in ("replacement", "repaint"):
            continue
        got = answer(model, params, measured, method, options.steps, options.samples)
        samples = got.pop("samples")
        errors = [score(np.asarray(x), unit(test), task, None) for x in (samples.mean(0), samples[0])]
        found[method] = {"mean": errors[0], "one": errors[1], **got}
    return found


def table(result: dict[str, Any]) -> str:
    lines = ["| task | answer | mean of samples | one sample | seam | NFE | seconds |", "|---|---|---|---|---|---|---|"]
    number = lambda figures, name: f"{figures[name]:.3g}" if name in figures else ""
    for task, answers in result["tasks"].items():
        for name, found in answers.items():
            mean, one = found["mean"], found.get("one", {})
            figure = "psnr" if "psnr" in mean else "mse"
            cells = [f"{mean[figure]:.4g}", number(one, figure), number(one or mean, "seam")]
            cells += [str(found.get("nfe", "")), str(found.get("seconds", ""))]
            lines.append(f"| {task} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--count", type=int, default=100, help="pictures of the test split")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--redraw", action="store_true", help="print the table of the JSON, measure nothing")
    options = parser.parse_args()
    if options.redraw:
        print(table(json.loads(options.json.read_text())))
        return
    if min(options.count, options.samples, options.steps) < 1:
        parser.error("--count, --samples and --steps must be at least 1")
    model, params, step = load(options.run)
    params = jax.tree.map(jnp.asarray, params)
    images = cast(Images, model.recipe.data.load())
    tasks = tasks_of(CONDITIONS, model.info.shape)
    progress = Progress("tasks", len(tasks))
    found = {}
    for task in tasks:
        found[task.name] = of_task(task, model, params, images, options)
        progress(task.name)
    result = {
        "about": {
            **results_file.about(),
            "data": images.name,
            "checksum": images.checksum,
            "checkpoint": step,
            "pictures": options.count,
            "samples": options.samples,
            "steps": options.steps,
        },
        "tasks": found,
    }
    results_file.write(options.json, result)
    print(table(result))


if __name__ == "__main__":
    main()
