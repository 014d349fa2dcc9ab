"""Text from a run: free, after a prompt, or in the gaps of one; shown while it becomes known."""

import json
import time
from typing import Any

import jax
import numpy as np
from etils import epath

from experiments.model import Model
from experiments.recipe import Sampler
from experiments.text import prompt as prompting
from experiments.text.live import Live
from experiments.text.show import shown


def write(
    model: Model,
    params: Any,
    *,
    sampler: Sampler,
    count: int,
    seed: int,
    prompt: str | None,
    gap: int,
    batch_size: int,
    devices: list[jax.Device],
    live: bool,
    out: epath.Path,
) -> str:
    """Draw `count` texts, print them, and write them to `out` and, as tokens, beside it; returns what to say of it.

    Raises:
        UserError: a prompt that does not fit the run.
    """
    given = None if prompt is None else prompting.parse(prompt, model.info, gap)
    cut = slice(None) if given is None else slice(given.shown)
    show = lambda tokens: shown(model.info, tokens[cut])
    observed = None
    if given is not None:
        observed = np.repeat(given.mask[None], count, 0), np.repeat(given.value[None], count, 0)
    screen = Live(lambda tokens: show(tokens if given is None else np.where(given.mask, given.value, tokens)))
    began = time.perf_counter()
    tokens, nfe = model.draw(
        params,
        None,
        count,
        sampler=sampler,
        seed=seed,
        batch_size=batch_size,
        observed=observed,
        devices=None if live and screen.enabled else devices,
        record=screen.record if live and screen.enabled else None,
    )
    seconds = time.perf_counter() - began
    screen.clear()
    texts = [show(row) for row in tokens]
    print("\n\n---\n\n".join(texts))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n\n---\n\n".join(texts) + "\n")
    out.with_suffix(".json").write_text(json.dumps({"prompt": prompt, "texts": texts, "tokens": tokens.tolist()}))
    return (
        f"{count} texts of {tokens.shape[1]} tokens, {nfe} network evaluations each, in {seconds:.1f} s "
        f"(compilation included): {out}"
    )
