"""DPM-Solver++(3S): third order in log(alpha / sigma) from two points inside the step.

DPM-Solver-3 (arXiv 2206.00927, alg. 2, r1 = 1/3, r2 = 2/3) for the denoised value (arXiv 2211.01095).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxdiff.solvers.multistep import average, exponential_moments
from jaxdiff.solvers.steps import Point, carry, carry_noise, level, noise_in, real_steps, steps_to_noise
from jaxdiff.types import Denoiser, Noise, Process, Schedule, pytree

_PLACES = (0.0, 1 / 3, 2 / 3)  # of the three calls, in units of the step


@pytree
class DPMpp3S:
    """x_s = alpha_s D + sigma_s (x - alpha_t D) / sigma_t, D the average of a parabola through three denoised values.

    They stand at 0, 1/3 and 2/3 of the step in log(alpha / sigma). The first leads to the second, the line through both
    to the third. Third order, three calls a step; the step to s = 0 makes one call and returns x0. A step from the
    data itself (inversion) averages the noise instead.

    This is solver type "taylor" in the authors' code and "heun" in diffusers, whose curvature is whole, unlike that of
    the published `DPMpp3M`. The other type ends with the line through the first and the third, also at third order.
    """

    order = 3

    def nfe(self, grid: Float[Array, " N"]) -> Int[Array, ""]:
        return real_steps(grid) + 2 * steps_to_noise(grid)

    def init(self, process: Process, x: Float[Array, "B ..."], grid: Float[Array, " N"]) -> tuple[()]:
        return ()

    def step(
        self,
        keys: Noise,
        process: Process,
        denoise: Denoiser,
        x: Float[Array, "B ..."],
        t: Float[Array, ""],
        s: Float[Array, ""],
        state: Any,
    ) -> tuple[Float[Array, "B ..."], Any]:
        schedule = process.schedule
        at, x0 = schedule(t), denoise(x, t)

        def averaged():
            h, inside = thirds(schedule, t, s)
            denoised, noises = [x0], [noise_in(x, x0, *at)]

            def advance(to: Point, fraction: float) -> Float[Array, "B ..."]:
                """By the polynomial through all values so far, to a fraction of the step."""
                known = len(denoised)
                nodes = [jnp.full_like(h, place / fraction) for place in _PLACES[:known]]
                mean = lambda values: average(nodes, values, exponential_moments(fraction * h, known), known)
                by_data, by_noise = carry(x, mean(denoised), at, to), carry_noise(x, mean(noises), at, to)
                return jnp.where(at[1] > 0, by_data, by_noise)

            for place, m in zip(_PLACES[1:], inside, strict=True):
                point = schedule(m)
                x_m = advance(point, place)
                denoised.append(denoise(x_m, m))
                noises.append(noise_in(x_m, denoised[-1], *point))
            return advance(schedule(s), 1.0)

        return jax.lax.cond(schedule(s)[1] == 0, lambda: x0, averaged), state


def thirds(
    schedule: Schedule, t: Float[Array, ""], s: Float[Array, ""]
) -> tuple[Float[Array, ""], tuple[Float[Array, ""], ...]]:
    """The step in L = log(alpha / sigma), and the times at 1/3 and 2/3 of it.

    Where alpha is 0 at an end, L is infinite but e^L = alpha / sigma is not: the step is divided in that. The weight
    e^L dL is uniform there, as in a step of no length in L, which is what is returned for it. From the data the same
    holds for the noise in sigma / alpha, with its weight e^-L; it begins with no noise.
    """
    start, end = level(schedule, t), level(schedule, s)
    finite = jnp.isfinite(start) & jnp.isfinite(end)
    h = jnp.where(finite, end - start, 0.0)

    def within(place: float) -> Float[Array, ""]:
        divided = jnp.where(jnp.isfinite(end), end - jnp.sign(start) * jnp.log(place), start + jnp.log1p(-place))
        middle = jnp.where(finite, start + place * h, divided)
        return schedule.inverse(2 * jnp.where(jnp.isfinite(middle), middle, 0.0))  # from one end to the other: anywhere

    return h, tuple(within(place) for place in _PLACES[1:])
