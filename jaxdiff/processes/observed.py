"""Known elements of the data: put in place of noisy ones before the network sees them, and left out of losses."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from jaxdiff.types import Mask, Time, expand

Observed = tuple[Mask, Shaped[Array, "..."]]
"""`(mask, value)`: where elements are known, a prefix of the data's shape, and what they are, the data's shape."""


def put_in(observed: Observed | None, x: Shaped[Array, "B ..."], t: Time) -> tuple[Shaped[Array, "B ..."], Any]:
    """x with the known elements in it, and the network's clock: 0, the data, for those and t elsewhere."""
    clock = jnp.asarray(t)
    if observed is None:
        return x, clock
    # Guidance asks for several estimates of each sample, interleaved: (c0, u0, c1, u1, ...).
    copies = x.shape[0] // observed[1].shape[0]
    mask, value = (jnp.repeat(part, copies, 0) if part.shape[0] > 1 else part for part in observed)
    x = jnp.where(expand(mask, x), value, x)
    mask = mask.reshape(mask.shape + (1,) * (clock.ndim - mask.ndim))
    return x, jnp.where(mask, 0.0, clock.reshape(clock.shape + (1,) * (mask.ndim - clock.ndim)))


def mean_of(error: Float[Array, "B ..."], where: Mask | None) -> Float[Array, " B"]:
    """The mean over the elements of each example that count, where = None: all; 0 for an example without any."""
    axes = tuple(range(1, error.ndim))
    if where is None:
        return error.mean(axes)
    where = jnp.broadcast_to(expand(where, error), error.shape)
    return jnp.where(where, error, 0.0).sum(axes) / jnp.maximum(where.sum(axes), 1)
