"""Sigmoid: alpha^2 falls from 1 to 0 along a piece of the logistic curve (arXiv 2301.10972)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.rates import root
from jaxdiff.types import Scalar, Time, is_traced, pytree


@pytree
class Sigmoid:
    """alpha^2 = (S(b) - S(x)) / (S(b) - S(a)) and sigma^2 = (S(x) - S(a)) / (S(b) - S(a)), at x = a + (b - a) t.

    S is the logistic function, a = start / tau and b = end / tau. Both ends are exact: alpha(1) = 0, so predictions of
    noise are refused. The slope of alpha is infinite there (alpha falls like sqrt(1 - t)) and that of sigma at t = 0;
    both are defined as 0 at these points alone, and `predictions.velocity` is refused too.

    The *table* of the same name, beta_k = first + (last - first) S(x_k) with x_k from -6 to 6 (GeoDiff, diffusers'
    `beta_schedule="sigmoid"`), is another schedule: give those betas to `FromBetas`.

    Args:
        start, end: the ends of the piece of the curve, start < end.
        tau: temperature, > 0; a small one makes a steep fall in the middle. The two ends of the curve must be
            representable: |start|, |end| < 80 tau in float32.

    Raises:
        ValueError: `end` is not above `start`, or `tau` is not positive.
    """

    start: Scalar = -3.0
    end: Scalar = 3.0
    tau: Scalar = 1.0

    def __post_init__(self):
        if not is_traced(self) and not (self.start < self.end and self.tau > 0):
            raise ValueError(
                f"Sigmoid needs start < end and tau > 0, got start = {self.start}, end = {self.end}, tau = {self.tau}"
            )

    def __call__(self, t: Time) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        t, s = jnp.asarray(t), jax.nn.sigmoid
        low, width = self.start / self.tau, (self.end - self.start) / self.tau
        x = low + width * t
        # S(y) - S(x) = S(y) S(-x) (1 - exp(x - y)): no cancellation at either end.
        signal = s(-x) / s(-low) * jnp.expm1(width * (t - 1)) / jnp.expm1(-width)
        noise = s(x) / s(low + width) * jnp.expm1(-width * t) / jnp.expm1(-width)
        # The larger square is 1 minus the smaller, which makes both ends exact.
        return (
            root(jnp.where(noise < 0.5, 1 - noise, signal)),
            root(jnp.where(signal < 0.5, 1 - signal, noise)),
        )

    def inverse(self, logsnr: Time) -> Float[Array, "..."]:
        """(b - a) t = log(1 + sigma^2 (S(b) / S(a) - 1)) - log(1 + sigma^2 (S(-b) / S(-a) - 1))."""
        logsnr, s = jnp.asarray(logsnr), jax.nn.sigmoid
        low, high = self.start / self.tau, self.end / self.tau
        signal, noise, fall = s(logsnr), s(-logsnr), s(-high) / s(-low)
        down = jnp.where(noise < 0.5, jnp.log1p(noise * (fall - 1)), jnp.log(signal + noise * fall))
        return (jnp.log1p(noise * (s(high) / s(low) - 1)) - down) / (high - low)
