"""What a run that is told more than classes makes of some training examples, right after training."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.conditions import known_pixels, made_smaller
from experiments.model import Model
from experiments.recipe import Sampler

SAMPLES = 3


def told_all(model: Model, examples: Mapping[str, Any], count: int) -> tuple[dict[str, Any], np.ndarray]:
    """`cond` and `observed` for `Model.draw` with everything the network was told in training, and what is seen.

    Args:
        examples: a training batch, `x0` (B, H, W, C) in [-1, 1] and its `cond`.
        count: its first examples, no more than there are.

    Returns:
        The arguments, and float32 (count, H, W, C): known pixels in front of grey, or the small picture enlarged;
        nothing but grey where other things are told.
    """
    conditions = model.recipe.conditions
    x0, known = np.asarray(examples["x0"][:count]), examples.get("cond")
    parts = dict(known) if isinstance(known, Mapping) else {"label": known}
    cond: dict[str, Any] = {name: np.asarray(parts[name])[:count] for name in model.told & parts.keys()}
    seen, observed, keys = np.zeros_like(x0), None, jax.random.split(jax.random.key(0), len(x0))
    if conditions.smaller:
        cond["image"] = seen = np.asarray(made_smaller(keys, jnp.asarray(x0), conditions.smaller))
    if conditions.holes:
        mask = np.asarray(known_pixels(keys, (x0.shape[1], x0.shape[2]), conditions.holes))
        observed, seen = (mask, x0), np.where(mask[..., None], x0, seen)
    return {"cond": cond or None, "observed": observed}, seen


def sheet(
    model: Model, params: Any, examples: Mapping[str, Any], sampler: Sampler, count: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """`(pictures, path, network evaluations of a sample)`, uint8.

    Pictures (rows, n, H, W, C): what is seen, `SAMPLES` samples of each, and the truth; the path is of n samples at
    each time of the grid.
    """
    given, seen = told_all(model, examples, count)
    drawn = [model.draw(params, count=len(seen), sampler=sampler, seed=seed, **given) for seed in range(SAMPLES)]
    path, _ = model.draw(params, count=len(seen), sampler=sampler, trajectory=True, **given)
    truth = model.pixels(np.asarray(examples["x0"][: len(seen)]))
    return np.stack([model.pixels(seen), *(x for x, _ in drawn), truth]), path, drawn[0][1]
