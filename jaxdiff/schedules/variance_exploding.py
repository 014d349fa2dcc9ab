"""VarianceExploding: alpha = 1, sigma geometric in t (arXiv 2011.13456, eq. 30), shifted to be exactly 0 at t = 0."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.types import Scalar, Time, pytree


@pytree
class VarianceExploding:
    """sigma = sigma_min expm1(t log1p(sigma_max / sigma_min)): linear below sigma_min, geometric above.

    Args:
        sigma_min: the noise scale, > 0, at which the growth turns from linear to geometric.
        sigma_max: noise scale at t = 1; about the largest distance between two data points (arXiv 2006.09011).
    """

    sigma_min: Scalar = 0.002
    sigma_max: Scalar = 80.0

    def __call__(self, t: Time) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        t = jnp.asarray(t)
        return jnp.ones_like(t), self.sigma_min * jnp.expm1(t * jnp.log1p(self.sigma_max / self.sigma_min))

    def inverse(self, logsnr: Time) -> Float[Array, "..."]:
        """t = log1p(exp(-logsnr / 2) / sigma_min) / log1p(sigma_max / sigma_min)."""
        sigma = jnp.exp(-0.5 * jnp.asarray(logsnr))
        return jnp.log1p(sigma / self.sigma_min) / jnp.log1p(self.sigma_max / self.sigma_min)
