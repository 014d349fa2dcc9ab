"""Text from a run: free, after a prompt, or in the gaps of one; shown while it becomes known."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from etils import epath

from experiments.errors import UserError
from experiments.model import Model
from experiments.recipe import Given, Sampler
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
    asked = _asked(model, prompt, gap)
    votes, row = asked.votes, asked.row
    rows = {name: np.repeat(part, count * votes, 0) for name, part in row.items()}
    mask, value = (row["observed"][0], row["x0"][0]) if row else (False, 0)
    observed = (rows["observed"], rows["x0"]) if row else None
    screen = Live(lambda tokens: asked.show(np.where(mask, value, tokens)))
    began = time.perf_counter()
    tokens, nfe = model.draw(
        params,
        rows.get("cond"),
        count * votes,
        sampler=sampler,
        seed=seed,
        batch_size=batch_size,
        observed=observed,
        devices=None if live and screen.enabled else devices,
        record=screen.record if live and screen.enabled else None,
    )
    seconds = time.perf_counter() - began
    screen.clear()
    texts = [asked.answer(tokens[i * votes : (i + 1) * votes]) for i in range(count)]
    print("\n\n---\n\n".join(texts))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n\n---\n\n".join(texts) + "\n")
    out.with_suffix(".json").write_text(json.dumps({"prompt": prompt, "texts": texts, "tokens": tokens.tolist()}))
    return (
        f"{count} texts of {tokens.shape[1]} tokens, {nfe * votes} network evaluations each, in {seconds:.1f} s "
        f"(compilation included): {out}"
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Asked:
    """What is known, as a batch of one (nothing: empty); a text of tokens (votes, L), and how they look on the way."""

    row: dict[str, np.ndarray]
    votes: int
    answer: Callable[[np.ndarray], str]
    show: Callable[[np.ndarray], str]


def _asked(model: Model, prompt: str | None, gap: int) -> _Asked:
    """A prompt as the run takes it: a task's own question, or the beginning and the gaps of a window."""
    if isinstance(model.recipe.data, Given):
        if prompt is None:
            raise UserError(f"{model.info.name} answers what it is given; pass it with --prompt")
        task = model.recipe.data.load()
        question = task.ask(prompt.replace("\\n", "\n"))
        show = lambda tokens: shown(model.info, tokens)
        return _Asked(row=question.row, votes=task.votes, answer=question.answer, show=show)
    given = None if prompt is None else prompting.parse(prompt, model.info, gap)
    cut = slice(None) if given is None else slice(given.shown)
    show = lambda tokens: shown(model.info, tokens[cut])
    row = {} if given is None else {"observed": given.mask[None], "x0": given.value[None]}
    return _Asked(row=row, votes=1, answer=lambda tokens: show(tokens[0]), show=show)
