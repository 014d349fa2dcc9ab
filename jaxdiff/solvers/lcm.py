"""LCM: the sampler of consistency models, and TCD's (arXiv 2310.04378, alg. 3; 2402.19159, eq. 24)."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxdiff.solvers.steps import carry, real_steps
from jaxdiff.types import Denoiser, Noise, Process, Scalar, pytree


@pytree
class LCM:
    """From x_t to the time d = (1 - gamma) s by DDIM's step, then q(x_s | x_d).

    gamma = 1 is LCM: the denoised value, with all the noise of s drawn anew. Its law is right in any number of steps
    for a consistency model, which maps x_t to the data that its probability-flow ODE leads to, and not for a denoiser:
    hence order 0. gamma = 0 is `DDIM`.

    Args:
        gamma: TCD's stochasticity, 0 to 1; may be traced.
    """

    gamma: Scalar = 1.0
    order = 0
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
        x0, d = denoise(x, t), (1 - self.gamma) * s
        x_d = carry(x, x0, process.schedule(t), process.schedule(d))
        x_s = process.forward(keys, x_d, d, s)
        return jnp.where(process.schedule(s)[1] == 0, x0, x_s), state
