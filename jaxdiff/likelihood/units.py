"""Nats of a whole example as bits of one dimension."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def bits_per_dim(log_density: Float[Array, " B"], size: int, bin_width: float = 1.0) -> Float[Array, " B"]:
    """-log2 p per dimension, of data with `size` dimensions whose quantisation bins are `bin_width` wide.

    Images of 256 levels scaled to [-1, 1] have bins of 2 / 255.
    """
    return -(log_density / size + jnp.log(bin_width)) / jnp.log(2.0)
