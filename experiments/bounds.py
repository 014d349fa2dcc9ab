"""The evidence lower bound of a run on held-out tokens, of text or of levels of grey."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.model import Model
from jaxdiff import guidance, likelihood


def bound(
    model: Model,
    params: Any,
    rows: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    draws: int,
    seed: int,
    batch: int = 64,
) -> tuple[float, float]:
    """The mean bound on -log p of a token, in nats, and its standard error over the noise.

    A model of blocks is given what precedes each block, so this is its bound on the whole window.

    Args:
        rows: tokens (N, *shape).
        labels: (N,), to bound log p(x0 | label); None for log p(x0).
        draws: noisy copies of each row, at least 4.
        seed: of the noise.
        batch: rows at once.
    """
    blocks = getattr(model.recipe.network, "block", None)

    @jax.jit
    def nats(key, params, x0, cond, first):
        denoise = model.denoiser(params)
        if blocks or cond is not None:
            denoise = guidance.condition(denoise, x0 if blocks else cond)
        return -likelihood.elbo(key, model.process, denoise, x0, draws=max(draws // 4, 1), first=first)

    total = np.zeros(4)
    for first in range(0, len(rows), batch):
        index = np.arange(first, first + batch) % len(rows)
        used = min(batch, len(rows) - first)
        cond = None if labels is None else jnp.asarray(labels[index], jnp.int32)
        for i in range(4):  # four independent estimates tell the error of their mean
            values = nats(jax.random.key(4 * seed + i), params, jnp.asarray(rows[index]), cond, first)
            total[i] += np.asarray(values[:used], np.float64).sum()
    means = total / rows.size
    return float(means.mean()), float(means.std(ddof=1) / 2)
