"""DPM-Solver++(2S): the midpoint rule for the denoised value, in log(alpha / sigma) (arXiv 2211.01095, alg. 1)."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxdiff.solvers.steps import by_midpoint, real_steps, steps_to_noise
from jaxdiff.types import Denoiser, Noise, Process, pytree


@pytree
class DPMpp2S:
    """x_s = alpha_s D + sigma_s (x - alpha_t D) / sigma_t with D = x0(x_m, m), m half-way in log(alpha / sigma).

    Second order, two calls a step; the step to s = 0 makes one call and returns x0. A step from the data itself
    (inversion) averages the noise instead.
    """

    order = 2

    def nfe(self, grid: Float[Array, " N"]) -> Int[Array, ""]:
        return real_steps(grid) + steps_to_noise(grid)

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
        x0 = denoise(x, t)

        def corrected():
            by_data, by_noise = by_midpoint(process, denoise, x, x0, t, s)
            return jnp.where(process.schedule(t)[1] > 0, by_data, by_noise)

        return jax.lax.cond(process.schedule(s)[1] == 0, lambda: x0, corrected), state
