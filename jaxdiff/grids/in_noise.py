"""Grids that are a formula in the noise scale sigma / alpha; the schedule's inverse turns it into times."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.grids.ramp import Ramp, Steps, ramp
from jaxdiff.rates import logsnr as logsnr_at
from jaxdiff.types import Scalar, Schedule


def karras(
    schedule: Schedule,
    steps: Steps,
    *,
    sigma_min: Scalar = 0.002,
    sigma_max: Scalar = 80.0,
    rho: Scalar = 7.0,
    length: int | None = None,
) -> Float[Array, " N"]:
    """Equal steps in (sigma / alpha)^(1 / rho) from sigma_max to sigma_min, then 0 (arXiv 2206.00364, eq. 5).

    Args:
        schedule: turns noise scales into times.
        steps, length: number of steps, see `jaxdiff.grids`.
        sigma_min, sigma_max: noise scales sigma / alpha, in units of the data, at the two ends of the ramp; sigma_max
            is lowered to the schedule's own scale at t = 1 where that is smaller. The ramp's first time is then
            replaced by exactly 1, and 0 follows its last.
        rho: 7 for few steps; 1 is linear in the noise scale.
    """
    r, u = _interior(steps, length)
    root = lambda sigma: jnp.asarray(sigma, u.dtype) ** (1 / rho)
    sigma = (root(largest(schedule, sigma_max)) * (1 - u) + root(sigma_min) * u) ** rho
    return r.close(schedule.inverse(-2 * jnp.log(sigma)))


def logsnr(
    schedule: Schedule,
    steps: Steps,
    *,
    sigma_min: Scalar = 0.002,
    sigma_max: Scalar = 80.0,
    length: int | None = None,
) -> Float[Array, " N"]:
    """Equal steps in log-SNR, a geometric sequence of noise scales, then 0 (arXiv 2206.00927, sec. 3.3).

    Args:
        schedule, steps, sigma_min, sigma_max, length: as in `karras`.
    """
    return poly_exponential(schedule, steps, sigma_min=sigma_min, sigma_max=sigma_max, rho=1.0, length=length)


def poly_exponential(
    schedule: Schedule,
    steps: Steps,
    *,
    sigma_min: Scalar = 0.002,
    sigma_max: Scalar = 80.0,
    rho: Scalar = 1.0,
    length: int | None = None,
) -> Float[Array, " N"]:
    """Equal steps in the `rho`-th root of the log noise scale above log sigma_min, then 0 (k-diffusion).

    log sigma_i = log sigma_min + (1 - i / (steps - 1))^rho log(sigma_max / sigma_min).

    Args:
        schedule, steps, sigma_min, sigma_max, length: as in `karras`.
        rho: > 0; 1 is `logsnr`, above it is denser near the data.
    """
    r, u = _interior(steps, length)
    low, high = jnp.log(jnp.asarray(sigma_min, u.dtype)), jnp.log(largest(schedule, sigma_max))
    # Written as a mean of the two ends, so that each is exact.
    share = (1 - u) ** rho
    return r.close(schedule.inverse(-2 * (high * share + low * (1 - share))))


def _interior(steps: Steps, length: int | None) -> tuple[Ramp, Float[Array, " N"]]:
    """The ramp and its share in [0, 1], which reaches 1 a step before the end: the last step goes to sigma = 0."""
    r = ramp(steps, length)
    return r, jnp.minimum(r.i / jnp.maximum(r.n - 1, 1), 1.0)


def largest(schedule: Schedule, sigma_max: Scalar) -> Float[Array, ""]:
    """`sigma_max`, or the schedule's own noise scale at t = 1 where that is smaller."""
    return jnp.minimum(sigma_max, jnp.exp(-0.5 * logsnr_at(schedule, 1.0)))
