"""Ancestral sampling: draw x_s from the process's own bridge q(x_s | x_t, x0) (arXiv 2006.11239, alg. 2)."""

from typing import Any, ClassVar

from jaxtyping import Array, Float, Int

from jaxdiff.solvers.steps import real_steps
from jaxdiff.types import Data, Denoiser, Noise, Process, pytree


@pytree
class Ancestral:
    """DDPM's sampler, with the posterior variance; stochastic, one call a step, any process."""

    order: ClassVar[int] = 1
    one_call: ClassVar[bool] = True

    def nfe(self, grid: Float[Array, " N"]) -> Int[Array, ""]:
        return real_steps(grid)

    def init(self, process: Process, x: Data, grid: Float[Array, " N"]) -> tuple[()]:
        return ()

    def step(
        self,
        keys: Noise,
        process: Process,
        denoise: Denoiser,
        x: Data,
        t: Float[Array, ""],
        s: Float[Array, ""],
        state: Any,
    ) -> tuple[Data, Any]:
        return process.bridge(keys, denoise(x, t), x, t, s), state
