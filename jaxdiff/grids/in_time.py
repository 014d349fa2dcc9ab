"""Grids that are a formula in t itself, whatever the schedule."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.grids.ramp import Steps, ramp
from jaxdiff.types import Scalar, Schedule, is_traced


def uniform(schedule: Schedule, steps: Steps, *, length: int | None = None) -> Float[Array, " N"]:
    """Equal steps in t."""
    r = ramp(steps, length)
    return r.close(1 - r.i / r.n)


def quadratic(schedule: Schedule, steps: Steps, *, length: int | None = None) -> Float[Array, " N"]:
    """Equal steps in sqrt(t): denser near the data (arXiv 2010.02502, sec. D.2)."""
    r = ramp(steps, length)
    return r.close((1 - r.i / r.n) ** 2)


def beta(
    schedule: Schedule, steps: Steps, *, a: Scalar = 0.6, b: Scalar = 0.6, length: int | None = None
) -> Float[Array, " N"]:
    """Quantiles of the law Beta(a, b) of t at equal probabilities, t_i = Q(1 - i / steps) (arXiv 2407.12173).

    Below 1 both parameters make it dense at both ends. (Diffusers' `use_beta_sigmas` puts the quantiles into the noise
    scale instead, between its smallest and largest; that is the same only where the noise scale is the time.)

    Args:
        schedule: not used.
        steps, length: number of steps, see `jaxdiff.grids`.
        a, b: parameters of the law, > 0; a = b = 1 is `uniform`.

    Raises:
        ValueError: a or b is not positive.
    """
    if not is_traced((a, b)) and not (a > 0 and b > 0):
        raise ValueError(f"the law Beta(a, b) needs a > 0 and b > 0, got a = {a}, b = {b}")
    r = ramp(steps, length)
    p = r.i / r.n
    # The smaller of p and 1 - p is exact; the quantile is sought from the end that it belongs to.
    upper = p > 0.5
    near = _beta_quantile(jnp.where(upper, 1 - p, p), jnp.where(upper, a, b), jnp.where(upper, b, a))
    return r.close(jnp.where(upper, near, 1 - near))


def _beta_quantile(p: Float[Array, " N"], a: Float[Array, " N"], b: Float[Array, " N"]) -> Float[Array, " N"]:
    """Q(p) of Beta(a, b), by bisection until the interval is as small as rounding makes it next to zero."""

    def halve(_, bounds):
        low, high = bounds
        middle = 0.5 * (low + high)
        below = jax.scipy.special.betainc(a, b, middle) < p
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    low, high = jax.lax.fori_loop(0, 2 * jnp.finfo(p.dtype).nmant, halve, (jnp.zeros_like(p), jnp.ones_like(p)))
    return 0.5 * (low + high)


def linear_quadratic(
    schedule: Schedule, steps: Steps, *, threshold: Scalar = 0.025, length: int | None = None
) -> Float[Array, " N"]:
    """Small equal steps in t near the noise, then ever larger ones (arXiv 2410.13720; Genmo's Mochi).

    The first half of the steps covers `threshold` of the time in equal steps, as a uniform grid of
    steps / (2 threshold) steps would; the rest is the parabola that goes on with the same slope and ends at 0.

    Args:
        schedule: not used; meant for RectifiedFlow.
        steps, length: number of steps, see `jaxdiff.grids`.
        threshold: share of time of the first half, in (0, 1/2).

    Raises:
        ValueError: threshold outside (0, 1/2), where the grid would not decrease for every number of steps.
    """
    if not is_traced(threshold) and not 0 < threshold < 0.5:
        raise ValueError(f"threshold must lie in (0, 1/2), got {threshold}")
    r = ramp(steps, length)
    linear = jnp.maximum(r.n // 2, 1)
    slope, rest = threshold / linear, jnp.maximum(r.n - linear, 1)
    u = (r.i - linear) / rest
    curved = threshold + slope * rest * u + (1 - threshold - slope * rest) * u**2
    return r.close(1 - jnp.where(r.i < linear, slope * r.i, curved))
