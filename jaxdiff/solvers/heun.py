"""Heun's method, the trapezoidal rule on dx/dt (arXiv 2206.00364, alg. 1)."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxdiff.solvers.steps import real_steps, slope
from jaxdiff.types import Denoiser, Noise, Process, pytree


@pytree
class Heun:
    """Second order, two calls a step; the step to s = 0 makes one call and returns x0."""

    order = 2

    def nfe(self, grid: Float[Array, " N"]) -> Int[Array, ""]:
        return 2 * real_steps(grid) - jnp.sum((grid[1:] == 0) & (grid[:-1] > 0))

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
        first = slope(process, x, x0, t)
        euler = x + (s - t) * first

        def corrected():
            second = slope(process, euler, denoise(euler, s), s)
            return x + 0.5 * (s - t) * (first + second)

        return jax.lax.cond(process.schedule(s)[1] == 0, lambda: x0, corrected), state
