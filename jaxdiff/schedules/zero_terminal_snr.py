"""ZeroTerminalSNR: a variance-preserving schedule stretched until no signal is left at t = 1 (arXiv 2305.08891).

Schedules such as Stable Diffusion's keep alpha(1) = 0.068: training never shows pure noise, sampling starts from it,
and the mean brightness of every sample stays near the middle.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.types import Schedule, Time, is_traced, pytree


@pytree
class ZeroTerminalSNR:
    """alpha = (alpha_base - alpha_base(1)) / (1 - alpha_base(1)), sigma^2 = 1 - alpha^2 (arXiv 2305.08891, alg. 1).

    alpha(1) = 0 exactly, so predictions of noise are refused there: train with `predictions.v`.

    The published algorithm holds the first *entry* of a table of betas fixed, this one the data at t = 0, where alpha
    is 1. On a table whose first and last entries are a and z the published alpha is this one times
    a (1 - z) / (a - z), which is 1.00003 for Stable Diffusion's.

    Args:
        base: a variance-preserving schedule, alpha^2 + sigma^2 = 1.

    Raises:
        ValueError: the base is not variance-preserving.
    """

    base: Schedule

    def __post_init__(self):
        if is_traced(self):
            return
        with jax.ensure_compile_time_eval():
            alpha, sigma = self.base(jnp.linspace(0.0, 1.0, 9))
            error = float(jnp.abs(alpha**2 + sigma**2 - 1).max())
        if error > 1e-3:
            raise ValueError(
                f"ZeroTerminalSNR needs a variance-preserving base, alpha^2 + sigma^2 = 1, and that of "
                f"{type(self.base).__name__} is off by {error:g}; use it on FromBetas or LinearBeta"
            )

    def __call__(self, t: Time) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        t, (last, _) = jnp.asarray(t), self.base(1.0)
        alpha, sigma = self.base(t)
        left = alpha - last * (1 - alpha) / (1 - last)  # (alpha - last) / (1 - last), exactly 1 at alpha = 1
        # Exactly 0 at t = 1 and not below it a rounding error before, with the derivative that it has.
        left = left - jnp.where((t == 1) | (left < 0), jax.lax.stop_gradient(left), 0.0)
        # 1 - left = (1 - alpha) / (1 - last) and 1 - alpha = sigma^2 / (1 + alpha): no cancellation at the data.
        return left, sigma * jnp.sqrt((1 + left) / ((1 + alpha) * (1 - last)))

    def inverse(self, logsnr: Time) -> Float[Array, "..."]:
        """The base's inverse at its own log-SNR, from alpha_base = alpha (1 - alpha_base(1)) + alpha_base(1)."""
        logsnr, (last, _) = jnp.asarray(logsnr), self.base(1.0)
        left = jnp.sqrt(jax.nn.sigmoid(logsnr))
        alpha = left * (1 - last) + last
        short = (1 - last) * jax.nn.sigmoid(-logsnr) / (1 + left)  # 1 - alpha
        return self.base.inverse(2 * jnp.log(alpha) - jnp.log(short) - jnp.log1p(alpha))
