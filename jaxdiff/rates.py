"""What follows from any schedule: log-SNR, and the rates of alpha and sigma."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.types import Schedule, Time


def logsnr(schedule: Schedule, t: Time) -> Float[Array, "..."]:
    """log-SNR 2 log(alpha / sigma) (arXiv 2107.00630, sec. 3.1): +inf at t = 0, -inf where alpha = 0.

    Args:
        schedule: `t -> (alpha, sigma)`.
        t: times in [0, 1], any shape.

    Returns:
        An array of the shape of `t`, in nats.
    """
    alpha, sigma = schedule(t)
    return 2 * (jnp.log(alpha) - jnp.log(sigma))


def rates(schedule: Schedule, t: Time) -> tuple[tuple[Float[Array, "..."], ...], tuple[Float[Array, "..."], ...]]:
    """`((alpha, sigma), (d alpha / dt, d sigma / dt))` by one forward-mode derivative."""
    t = jnp.asarray(t)
    return jax.jvp(schedule, (t,), (jnp.ones_like(t),))


def root(square: Float[Array, "..."]) -> Float[Array, "..."]:
    """sqrt of a scale's square. Its slope is infinite at 0; there, and only there, the derivative is defined as 0.

    Schedules that start like sqrt(t) thus give finite gradients with respect to times when a grid ends at the data.
    """
    zero = square == 0
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, square)))


def root_of_noise(log_alpha: Float[Array, "..."]) -> Float[Array, "..."]:
    """sigma = sqrt(1 - alpha^2) of a variance-preserving schedule, without cancellation."""
    return root(-jnp.expm1(2 * log_alpha))
