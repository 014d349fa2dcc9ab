"""FromBetas: any published table of betas as a schedule in continuous time (arXiv 2006.11239, sec. 2)."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdiff.rates import root_of_noise
from jaxdiff.types import Time, is_traced, pytree


@pytree
class FromBetas:
    """Entry k of K betas stands at t = (k + 1) / K; alpha_k^2 = prod_{j <= k} (1 - beta_j), exact there.

    Between entries log alpha is linear in t, so alpha is monotone, and (alpha, sigma) is (1, 0) at t = 0.

    Args:
        betas: shape (K,), each in (0, 1).

    Raises:
        ValueError: an entry outside (0, 1), or not one axis.
    """

    betas: Float[Array, "..."] | Float[np.ndarray, "..."]

    def __post_init__(self):
        if self.betas.ndim != 1 or not self.betas.size:
            raise ValueError(f"betas must have shape (K,), got {self.betas.shape}")
        if not is_traced(self.betas):
            betas = np.asarray(self.betas)
            if not ((betas > 0) & (betas < 1)).all():
                raise ValueError(
                    f"each beta must lie in (0, 1), got values from {betas.min():g} to {betas.max():g}; "
                    "a zero-terminal-SNR table ends in beta = 1: give its unscaled betas to schedules.ZeroTerminalSNR"
                )

    @classmethod
    def linear(cls, steps: int = 1000, *, first: float = 1e-4, last: float = 0.02) -> "FromBetas":
        """Betas in equal steps from `first` to `last`: DDPM's table (arXiv 2006.11239, sec. 4)."""
        return cls(betas=np.linspace(first, last, steps, dtype=np.float32))

    @classmethod
    def scaled_linear(cls, steps: int = 1000, *, first: float = 0.00085, last: float = 0.012) -> "FromBetas":
        """Square roots of betas in equal steps: the table of Stable Diffusion 1 and 2 (arXiv 2112.10752, its code)."""
        return cls(betas=(np.linspace(first**0.5, last**0.5, steps) ** 2).astype(np.float32))

    def prepared(self) -> "_Cumulated":
        """The same schedule, its cumulative sums taken: `sample` does that once, not in every step."""
        steps = 0.5 * jnp.log1p(-jnp.asarray(self.betas))
        return _Cumulated(log_alpha=jnp.concatenate([jnp.zeros(1, steps.dtype), jnp.cumsum(steps)]))

    def __call__(self, t: Time) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        return self.prepared()(t)

    def inverse(self, logsnr: Time) -> Float[Array, "..."]:
        """Linear interpolation of -log alpha = softplus(-logsnr) / 2 in the table; never outside [0, 1]."""
        return self.prepared().inverse(logsnr)


@pytree
class _Cumulated:
    """log alpha at t = 0, 1/K, ..., 1, and linear between."""

    log_alpha: Float[Array, " entries"]

    def __call__(self, t: Time) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        t = jnp.asarray(t)
        table, last = self.log_alpha, self.log_alpha.shape[0] - 1
        # Round to the nearest entry: t = k / K is exact there although k / K * K need not be k in floating point.
        near = jnp.clip(jnp.round(t * last), 0, last)
        # The rounding error alone is taken off, so that the derivative stays that of t * K.
        offset = t * last - near
        offset = offset - jnp.where(t == near / last, jax.lax.stop_gradient(offset), 0.0)
        k = near.astype(jnp.int32)
        slope = jnp.where(
            (offset < 0) | (near == last),
            table[k] - table[jnp.maximum(k - 1, 0)],
            table[jnp.minimum(k + 1, last)] - table[k],
        )
        log_alpha = table[k] + offset * slope
        return jnp.exp(log_alpha), root_of_noise(log_alpha)

    def inverse(self, logsnr: Time) -> Float[Array, "..."]:
        wanted = 0.5 * jax.nn.softplus(-jnp.asarray(logsnr))
        times = jnp.linspace(0.0, 1.0, self.log_alpha.shape[0], dtype=self.log_alpha.dtype)
        return jnp.interp(wanted, -self.log_alpha, times)
