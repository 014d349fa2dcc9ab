"""SDE-DPM-Solver++(2S): the reverse SDE by the midpoint rule in log(alpha / sigma) (arXiv 2211.01095, sec. 5)."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxdiff import noise
from jaxdiff.solvers.steps import diffuse, midpoint, real_steps, steps_to_noise
from jaxdiff.types import Denoiser, Noise, Process, Scalar, pytree


@pytree
class DPMppSDE:
    """The exact step of the SDE whose noise is scaled by `eta`, for the denoised value half-way.

    The noise up to the middle is part of the noise up to the end: one Brownian path, two draws a step. eta = 0 is
    DPM-Solver++(2S). Two calls a step; the step to s = 0 makes one and returns x0.

    Args:
        eta: scale of the noise, >= 0; may be traced.
    """

    eta: Scalar = 1.0
    order = 2
    strong_order = 1

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
        at, to = process.schedule(t), process.schedule(s)
        x0 = denoise(x, t)

        def noisy():
            m = midpoint(process.schedule, t, s)
            middle = process.schedule(m)
            mean, std = diffuse(x, x0, at, middle, self.eta)
            second = denoise(noise.add(keys, mean, std, 0), m)
            mean, _ = diffuse(x, second, at, to, self.eta)
            # What is left at s of the noise drawn up to m, and what is drawn from m to s.
            left, _ = diffuse(std, jnp.zeros_like(std), middle, to, self.eta)
            _, fresh = diffuse(x, second, middle, to, self.eta)
            return noise.add(keys, noise.add(keys, mean, left, 0), fresh, 1)

        return jax.lax.cond(to[1] == 0, lambda: x0, noisy), state
