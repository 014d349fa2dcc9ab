"""How a run on texts that are given in part is judged: its answers to the test part, beside rules without a model."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from experiments import report, run_directory
from experiments.hardware import describe_devices, versions
from experiments.loading import check_same, load
from experiments.model import Model
from experiments.recipe import Sampler
from experiments.text.tasks import Task

_EXAMPLES = 4


def evaluate(
    run: epath.PathLike,
    *,
    sampler: Sampler | None = None,
    samples: int | None = None,
    seed: int = 0,
    step: int | None = None,
    unfinished: bool = False,
    sigma_rel: float | None = None,
    devices: Sequence[jax.Device] | None = None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Judge the run in `run`; leaves evaluation.json, evaluation.txt (examples good and bad) and a new report.html.

    Args:
        sampler: the recipe's own by default.
        samples: test examples to answer; all by default. The figures of the baselines are always of all.
        seed: of the samples.
        step, unfinished, sigma_rel: which parameters, see `experiments.loading.load`.
        devices: local ones to share the samples; one by default.
        say: told what is being done.

    Returns:
        What evaluation.json holds: `about`, `shown`, and `sets`, the figures of the model and of the baselines.

    Raises:
        UserError: no such run or checkpoint, or other data than it was trained on.
    """
    run = epath.Path(run)
    model, params, step = load(run, step=step, unfinished=unfinished, sigma_rel=sigma_rel)
    sampler = sampler or model.recipe.sampler
    task: Any = model.recipe.data.load(say)
    check_same(run, model, task)
    rows = np.arange(min(samples or len(task.test), len(task.test)))
    began = time.perf_counter()
    drawn, nfe = answers(model, params, task, rows, sampler=sampler, seed=seed, devices=devices, say=say)
    seconds = time.perf_counter() - began
    texts = task.read(drawn, rows)
    result = {
        "about": {
            "examples": len(rows),
            "votes": task.votes,
            "checkpoint": step,
            "solver": type(sampler.solver).__name__,
            "steps": sampler.steps,
            "nfe": nfe * task.votes,
            "seconds": round(seconds, 1),
            "seed": seed,
            "precision": getattr(model.recipe.network, "dtype", "float32"),
            "hardware": describe_devices(jax.devices()[:1]),
            "versions": versions(),
            "data": task.name,
            "checksum": task.checksum,
        },
        "shown": list(task.shown),
        "sets": {"model": task.judge(texts, rows), **task.baselines()},
    }
    run_directory.write_json(run / "evaluation.json", result)
    (run / "evaluation.txt").write_text(_examples(task, texts, rows))
    report.write(run)
    return result


def answers(
    model: Model,
    params: Any,
    task: Task,
    rows: np.ndarray,
    *,
    sampler: Sampler,
    seed: int,
    devices: Sequence[jax.Device] | None,
    say: Callable[[str], None],
) -> tuple[np.ndarray, int]:
    """`(tokens (votes, n, L), network evaluations of one sample)` for test examples `rows` (n,)."""
    batch = task.test.take(rows, np.zeros_like(rows), 0)
    drawn, nfe = [], 0
    for vote in range(task.votes):
        tokens, nfe = model.draw(
            params,
            batch.get("cond"),
            len(rows),
            sampler=sampler,
            seed=seed * task.votes + vote,
            batch_size=128,
            devices=devices,
            observed=(batch["observed"], batch["x0"]),
        )
        drawn.append(tokens)
        if task.votes > 1 and (vote + 1) % 8 == 0:
            say(f"{vote + 1} of {task.votes} samples of each example")
    return np.stack(drawn), nfe


def _examples(task: Task, texts: Sequence[str], rows: np.ndarray) -> str:
    """The best, middling and worst answers by the first figure, each with what was given and wanted."""
    figure = task.shown[0]
    scores = np.array([task.judge([text], rows[i : i + 1])[figure] for i, text in enumerate(texts)])
    order = np.argsort(-scores, kind="stable")
    middle = max(0, len(order) // 2 - _EXAMPLES // 2)
    groups = {"best": order[:_EXAMPLES], "middling": order[middle:][:_EXAMPLES], "worst": order[-_EXAMPLES:]}
    lines = []
    for name, group in groups.items():
        for i in map(int, group):
            row = int(rows[i])
            lines.append(f"== {name}, {figure} {scores[i]:.3f}\ngiven:  {task.given[row]}")
            lines[-1] += f"\nwanted: {task.wanted[row]}\nfound:  {texts[i]}"
    return "\n\n".join(lines) + "\n"
