"""DPM-Solver-2: the midpoint rule for the noise, in log(alpha / sigma) (arXiv 2206.00927, alg. 1)."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxdiff.solvers.steps import by_midpoint, real_steps, steps_to_noise
from jaxdiff.types import Denoiser, Noise, Process, pytree


@pytree
class DPMSolver2:
    """x_s = alpha_s / alpha_t x + (sigma_s - alpha_s sigma_t / alpha_t) eps(x_m, m), m half-way in log(alpha / sigma).

    In sigma / alpha this is the midpoint rule with a geometric mean in the middle, k-diffusion's "DPM2" and diffusers'
    KDPM2. Second order, two calls a step; the step to s = 0 makes one call and returns x0. A step from alpha(t) = 0, or
    to it in an inversion, averages the denoised value instead of the noise.
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
            signal = (process.schedule(t)[0] > 0) & (process.schedule(s)[0] > 0)
            return jnp.where(signal, by_noise, by_data)

        return jax.lax.cond(process.schedule(s)[1] == 0, lambda: x0, corrected), state
