"""LinearBeta: the continuous form of DDPM's linear betas (arXiv 2011.13456, eq. 32-33; arXiv 2006.11239, sec. 4)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.rates import root_of_noise
from jaxdiff.types import Scalar, Time, pytree


@pytree
class LinearBeta:
    """log alpha = -(beta_max - beta_min) t^2 / 4 - beta_min t / 2, sigma^2 = 1 - alpha^2.

    Args:
        beta_min: rate of noise at t = 0, per unit of time, > 0 (DDPM's beta_1 times 1000 steps).
        beta_max: rate of noise at t = 1.
    """

    beta_min: Scalar = 0.1
    beta_max: Scalar = 20.0

    def __call__(self, t: Time) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        t = jnp.asarray(t)
        log_alpha = -t * (0.25 * (self.beta_max - self.beta_min) * t + 0.5 * self.beta_min)
        return jnp.exp(log_alpha), root_of_noise(log_alpha)

    def inverse(self, logsnr: Time) -> Float[Array, "..."]:
        """The positive root of the quadratic -log alpha = softplus(-logsnr) / 2, without cancellation."""
        c = 0.5 * jax.nn.softplus(-jnp.asarray(logsnr))
        return 2 * c / (0.5 * self.beta_min + jnp.sqrt(0.25 * self.beta_min**2 + (self.beta_max - self.beta_min) * c))
