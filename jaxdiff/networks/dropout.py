"""Dropout whose mask belongs to an example, not to its place in a batch (arXiv 1207.0580).

An example's mask at one place in the network ("site") is drawn from its own key folded with the site's number,
so it is the same for every split of a batch over calls, devices and hosts, and when `jax.checkpoint` recomputes it.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key


def dropout(
    x: Float[Array, "B ..."], rate: float | int, keys: Key[Array, " B"] | None, site: int
) -> Float[Array, "B ..."]:
    """Zero elements with probability `rate` and scale the others by 1 / (1 - rate).

    Args:
        x: activations (B, ...).
        rate: probability in [0, 1), static.
        keys: one typed key per example; None leaves `x` as it is.
        site: number of this place in the network, static; another place needs another number.
    """
    if keys is None or not rate:
        return x
    # Drawn flat: the same mask, but XLA compiles a draw of several axes much more slowly.
    draw = lambda key: jax.random.bernoulli(jax.random.fold_in(key, site), 1 - rate, (math.prod(x.shape[1:]),))
    return jnp.where(jax.vmap(draw)(keys).reshape(x.shape), x / (1 - rate), 0)
