"""Euler's method on the probability-flow ODE dx/dt in the process's own time (arXiv 2011.13456, eq. 13)."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxdiff.solvers.steps import real_steps, slope
from jaxdiff.types import Denoiser, Noise, Process, pytree


@pytree
class Euler:
    """x_s = x + (s - t) dx/dt; the flow-matching sampler on RectifiedFlow. The step to s = 0 returns x0."""

    order = 1
    one_call = True

    def nfe(self, grid: Float[Array, " N"]) -> Int[Array, ""]:
        return real_steps(grid)

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
        return jnp.where(process.schedule(s)[1] == 0, x0, x + (s - t) * slope(process, x, x0, t)), state
