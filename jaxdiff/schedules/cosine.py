"""Cosine: alpha = cos(pi t / 2), sigma = sin(pi t / 2) (arXiv 2102.09672, eq. 17, without its offset)."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.types import Time, pytree


@pytree
class Cosine:
    """The variance-preserving schedule of constant angular speed; alpha(1) = 0 exactly.

    `alpha` is computed as sin(pi (1 - t) / 2), because cos(pi / 2) is negative in float32.
    """

    def __call__(self, t: Time) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        t = jnp.asarray(t)
        return jnp.sin(0.5 * jnp.pi * (1 - t)), jnp.sin(0.5 * jnp.pi * t)

    def inverse(self, logsnr: Time) -> Float[Array, "..."]:
        """t = (2 / pi) arctan(exp(-logsnr / 2))."""
        return 2 / jnp.pi * jnp.arctan(jnp.exp(-0.5 * jnp.asarray(logsnr)))
