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


def root_of_noise(log_alpha: Float[Array, "..."]) -> Float[Array, "..."]:
    """sigma = sqrt(1 - alpha^2) of a variance-preserving schedule, without cancellation.

    Its slope is infinite at alpha = 1. There, and only there, the derivative is defined as 0, so that gradients with
    respect to times stay finite when a grid ends at the data.
    """
    at_data = log_alpha == 0
    return jnp.where(at_data, 0.0, jnp.sqrt(-jnp.expm1(2 * jnp.where(at_data, -1.0, log_alpha))))
