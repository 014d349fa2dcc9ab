"""Predictor-corrector: Langevin steps at the new noise level after each step of a solver (arXiv 2011.13456, alg. 1)."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxdiff import noise
from jaxdiff.solvers.steps import noise_in, steps_to_noise
from jaxdiff.types import Denoiser, Noise, Process, Scalar, Solver, pytree, static

_FIRST = 2  # draws of a step that belong to the predictor


@pytree
class PredictorCorrector:
    """inner's step to s, then `corrections` times x + e score + sqrt(2 e) z with e = 2 (snr sigma)^2.

    The paper has |z| / |score|, averaged over a batch, where sigma stands here: they agree in high dimension, and so a
    sample does not depend on its batch. The corrector's law is right only as snr goes to 0; it lowers an error that the
    predictor made and adds one of its own. None at s = 0.

    Args:
        inner: the predictor.
        snr: the paper's signal-to-noise ratio of a Langevin step; may be traced.
        corrections: Langevin steps after each step, one call each.
    """

    inner: Solver
    snr: Scalar = 0.1
    corrections: int = static(default=1)

    @property
    def order(self) -> int:
        return self.inner.order

    def nfe(self, grid: Float[Array, " N"]) -> Int[Array, ""]:
        return self.inner.nfe(grid) + self.corrections * steps_to_noise(grid)

    def init(self, process: Process, x: Float[Array, "B ..."], grid: Float[Array, " N"]) -> Any:
        return self.inner.init(process, x, grid)

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
        x, state = self.inner.step(keys, process, denoise, x, t, s, state)
        alpha, sigma = process.schedule(s)
        size = 2 * (self.snr * sigma) ** 2

        def corrected(x):
            for i in range(self.corrections):
                score = -noise_in(x, denoise(x, s), alpha, sigma) / sigma
                x = noise.add(keys, x + size * score, jnp.sqrt(2 * size), _FIRST + i)
            return x

        return jax.lax.cond(sigma == 0, lambda x: x, corrected, x), state
