"""RectifiedFlow: alpha = 1 - t, sigma = t, straight paths (arXiv 2209.03003, eq. 1; arXiv 2210.02747, sec. 4.1)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.types import Time, pytree


@pytree
class RectifiedFlow:
    """Linear interpolation between data and noise; alpha(1) = 0 exactly, and alpha + sigma = 1."""

    def __call__(self, t: Time) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        t = jnp.asarray(t)
        return 1 - t, t

    def inverse(self, logsnr: Time) -> Float[Array, "..."]:
        """t = 1 / (1 + exp(logsnr / 2))."""
        return jax.nn.sigmoid(-0.5 * jnp.asarray(logsnr))
