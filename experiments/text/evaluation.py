"""How a run on text is judged: bits a character on held-out text beside n-grams, and what its samples are like.

The bound of the run is computed on windows of the test split, each by itself, so a figure of an n-gram model whose
context begins anew in each window stands beside the one that reads on. Figures are upper bounds of the negative
log-likelihood for a diffusion model, and exact for n-grams and for blocks of one token.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from experiments import report, run_directory
from experiments.bounds import bound
from experiments.hardware import describe_devices, versions
from experiments.loading import check_same, load
from experiments.recipe import Sampler
from experiments.text import metrics
from experiments.text.ngrams import NGrams
from experiments.text.show import shown
from experiments.text.windows import spread

SHOWN = (
    "bits",
    "bits_error",
    "bits_read_on",
    "entropy",
    "distinct_1",
    "distinct_2",
    "distinct_4",
    "words",
    "copied",
)
ORDERS = (1, 2, 3, 4, 5, 6)


def evaluate(
    run: epath.PathLike,
    *,
    sampler: Sampler | None = None,
    samples: int | None = None,
    windows: int = 400,
    draws: int = 64,
    seed: int = 0,
    step: int | None = None,
    unfinished: bool = False,
    sigma_rel: float | None = None,
    devices: Sequence[jax.Device] | None = None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Judge the run on text in `run`; leaves evaluation.json, evaluation.txt and a new report.html there.

    Args:
        sampler: the recipe's own by default.
        samples: texts to draw; the recipe's number, or 64.
        windows: of the test split, spread over it, at most.
        draws: noisy copies of each window for the bound.
        seed: of samples and bound.
        step, unfinished, sigma_rel: which parameters, see `experiments.loading.load`.
        devices: local ones to share the samples; one by default.
        say: told what is being done.

    Returns:
        What evaluation.json holds: `about`, `shown`, and `sets`, the figures of the model, of real text, of n-grams.

    Raises:
        UserError: no such run or checkpoint, or other data than it was trained on.
    """
    run = epath.Path(run)
    model, params, step = load(run, step=step, unfinished=unfinished, sigma_rel=sigma_rel)
    sampler = sampler or model.recipe.sampler
    texts: Any = model.recipe.data.load(say)
    check_same(run, model, texts)
    length, count = model.info.shape[0], samples or model.recipe.evaluation.samples or 64
    held_out = spread(texts.test, length, windows)
    per_token = texts.characters_per_token
    sets: dict[str, dict[str, Any]] = {"model": {}, "held-out text": {}}

    if model.info.tokens:
        began = time.perf_counter()
        nats, error = bound(model, params, held_out, draws=draws, seed=seed)
        sets["model"] = {"bits": nats / np.log(2) / per_token, "bits_error": error / np.log(2) / per_token}
        say(f"bound of {len(held_out)} windows in {time.perf_counter() - began:.0f} s")
    options = {"sampler": sampler, "seed": seed, "batch_size": min(count, 64), "devices": devices}
    model.draw(params, None, min(count, 64), **options)  # compiles
    began = time.perf_counter()
    drawn, nfe = model.draw(params, None, count, **options)
    seconds = time.perf_counter() - began
    write = lambda rows: [shown(model.info, row) for row in rows]
    seen = texts.tokenizer.decode(texts.train)
    judge = lambda passages: metrics.describe(passages, seen)
    sets["model"] |= judge(write(drawn))
    sets["held-out text"] |= judge([texts.tokenizer.decode(row) for row in spread(texts.test, length, count)])
    highest = NGrams.fit(texts.train, texts.tokenizer.size, max(ORDERS))
    for order in ORDERS:
        began = time.perf_counter()
        gram = highest if order == highest.order else highest.lower(order)
        sets[f"{order}-gram"] = {
            "bits": gram.bits(held_out).mean() / per_token,
            "bits_read_on": gram.bits_per_token(texts.test) / per_token,
            **judge([texts.tokenizer.decode(row) for row in gram.sample(np.random.default_rng(seed), count, length)]),
        }
        say(f"{order}-gram in {time.perf_counter() - began:.0f} s")
    result = {
        "about": {
            "samples": count,
            "windows": len(held_out),
            "window": length,
            "draws": draws,
            "checkpoint": step,
            "solver": type(sampler.solver).__name__,
            "steps": sampler.steps,
            "nfe": nfe,
            "seed": seed,
            "precision": getattr(model.recipe.network, "dtype", "float32"),
            "samples_per_second": round(count / seconds, 2),
            "tokens_per_second": round(count * length / seconds, 1),
            "hardware": describe_devices(jax.devices()[:1]),
            "versions": versions(),
            "data": texts.name,
            "checksum": texts.checksum,
        },
        "shown": list(SHOWN),
        "sets": {name: {key: float(value) for key, value in row.items()} for name, row in sets.items()},
    }
    run_directory.write_json(run / "evaluation.json", result)
    (run / "evaluation.txt").write_text("\n\n---\n\n".join(write(drawn[:16])) + "\n")
    report.write(run)
    return result


def table(result: dict[str, Any]) -> str:
    """A row for each set of `evaluate`'s result, a column for each figure."""
    shown, figures = result["shown"], result["sets"]
    number = lambda value: f"{'-':>14}" if value is None else f"{value:14.3f}"
    width = max(map(len, figures)) + 2
    lines = [" " * width + "".join(f"{name.replace('_', ' '):>14}" for name in shown)]
    return "\n".join(
        lines + [f"{k:{width}}" + "".join(number(row.get(n)) for n in shown) for k, row in figures.items()]
    )
