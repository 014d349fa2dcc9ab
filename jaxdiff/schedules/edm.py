"""EDM: alpha = 1, sigma = sigma_max t, the ODE in sigma itself (arXiv 2206.00364, table 1, last column)."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.types import Scalar, Time, pytree


@pytree
class EDM:
    """The noise scale is the clock, in units of `sigma_max`. Use it with `grids.karras` and `times.edm`.

    Args:
        sigma_max: noise scale at t = 1, > 0.
    """

    sigma_max: Scalar = 80.0

    def __call__(self, t: Time) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        t = jnp.asarray(t)
        return jnp.ones_like(t), self.sigma_max * t

    def inverse(self, logsnr: Time) -> Float[Array, "..."]:
        """t = exp(-logsnr / 2) / sigma_max."""
        return jnp.exp(-0.5 * jnp.asarray(logsnr)) / self.sigma_max
