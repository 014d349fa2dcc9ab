"""Grids: the times a sampler visits, `(schedule, steps, *, ...) -> times` of shape (steps + 1,).

Every grid decreases from exactly 1 to exactly 0. Bounds given as keywords concern the interior: noise scales
sigma / alpha are infinite at t = 1 for schedules without signal there, and zero at t = 0.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.rates import logsnr as logsnr_at
from jaxdiff.types import Scalar, Schedule, is_traced


def uniform(schedule: Schedule, steps: int) -> Float[Array, " N"]:
    """Equal steps in t."""
    _check(steps)
    return jnp.linspace(1.0, 0.0, steps + 1)


def quadratic(schedule: Schedule, steps: int) -> Float[Array, " N"]:
    """Equal steps in sqrt(t): denser near the data (arXiv 2010.02502, sec. D.2)."""
    _check(steps)
    return jnp.linspace(1.0, 0.0, steps + 1) ** 2


def karras(
    schedule: Schedule, steps: int, *, sigma_min: Scalar = 0.002, sigma_max: Scalar = 80.0, rho: Scalar = 7.0
) -> Float[Array, " N"]:
    """Equal steps in (sigma / alpha)^(1 / rho) from sigma_max to sigma_min, then 0 (arXiv 2206.00364, eq. 5).

    Args:
        schedule: turns noise scales into times.
        steps: number of steps, >= 1.
        sigma_min, sigma_max: noise scales sigma / alpha, in units of the data, at the two ends of the ramp; sigma_max
            is lowered to the schedule's own scale at t = 1 where that is smaller. The ramp's first time is then
            replaced by exactly 1, and 0 follows its last.
        rho: 7 for few steps; 1 is linear in the noise scale.
    """
    _check(steps)
    sigma_max = _largest(schedule, sigma_max)
    ramp = jnp.linspace(0.0, 1.0, steps)
    root = lambda sigma: jnp.asarray(sigma, jnp.float32) ** (1 / rho)
    sigma = (root(sigma_max) + ramp * (root(sigma_min) - root(sigma_max))) ** rho
    return _close(schedule.inverse(-2 * jnp.log(sigma)))


def logsnr(
    schedule: Schedule, steps: int, *, sigma_min: Scalar = 0.002, sigma_max: Scalar = 80.0
) -> Float[Array, " N"]:
    """Equal steps in log-SNR, a geometric sequence of noise scales, then 0 (arXiv 2206.00927, sec. 3.3).

    Args:
        schedule, steps, sigma_min, sigma_max: as in `karras`.
    """
    _check(steps)
    sigma_max = _largest(schedule, sigma_max)
    interior = jnp.linspace(-2 * jnp.log(sigma_max), -2 * jnp.log(jnp.asarray(sigma_min)), steps)
    return _close(schedule.inverse(interior))


def from_times(times: Float[Array, "..."]) -> Float[Array, " N"]:
    """A grid from the caller's own times.

    Args:
        times: shape (steps + 1,), each in [0, 1], monotone (decreasing to sample, increasing to invert); equal
            neighbours are steps that do nothing, which pads several grids to one length.

    Raises:
        ValueError: not one axis of two times or more, outside [0, 1], or not monotone.
    """
    times = jnp.asarray(times, jnp.result_type(float))
    if times.ndim != 1 or times.shape[0] < 2:
        raise ValueError(f"a grid needs shape (steps + 1,) with steps >= 1, got {times.shape}")
    if not is_traced(times):
        steps = times[1:] - times[:-1]
        if not ((times >= 0) & (times <= 1)).all() or not ((steps <= 0).all() or (steps >= 0).all()):
            raise ValueError(f"a grid must be monotone within [0, 1] (0 = data, 1 = noise), got {times}")
    return times


def _check(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"a grid needs at least 1 step, got {steps}")


def _largest(schedule: Schedule, sigma_max: Scalar) -> Float[Array, ""]:
    return jnp.minimum(sigma_max, jnp.exp(-0.5 * logsnr_at(schedule, 1.0)))


def _close(interior: Float[Array, " steps"]) -> Float[Array, " N"]:
    """Replace the first time by exactly 1 and append exactly 0."""
    return jnp.concatenate([jnp.ones(1), interior[1:], jnp.zeros(1)])
