"""DPM-Solver++(2M): second order in log-SNR, from one call a step and the previous one (arXiv 2211.01095, alg. 2)."""

from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxdiff.rates import logsnr
from jaxdiff.solvers.steps import noise_in, real_steps
from jaxdiff.types import Denoiser, Noise, Process, pytree


@pytree
class History:
    """The previous denoised value and half log-SNR; `filled` is false before the first step."""

    x0: Float[Array, "B ..."]
    level: Float[Array, ""]
    filled: Bool[Array, ""]


@pytree
class DPMpp2M:
    """x_s = alpha_s D + sigma_s (x - alpha_t D) / sigma_t with D = x0 + h (x0 - x0_prev) / (2 h_prev).

    h is the step in log(alpha / sigma). The first step, and the step to s = 0, are DDIM's.
    """

    order: ClassVar[int] = 2
    one_call: ClassVar[bool] = True

    def nfe(self, grid: Float[Array, " N"]) -> Int[Array, ""]:
        return real_steps(grid)

    def init(self, process: Process, x: Float[Array, "B ..."], grid: Float[Array, " N"]) -> History:
        return History(x0=jnp.zeros_like(x), level=jnp.zeros((), grid.dtype), filled=jnp.array(False))

    def step(
        self,
        keys: Noise,
        process: Process,
        denoise: Denoiser,
        x: Float[Array, "B ..."],
        t: Float[Array, ""],
        s: Float[Array, ""],
        state: History,
    ) -> tuple[Float[Array, "B ..."], History]:
        (alpha_t, sigma_t), (alpha_s, sigma_s) = process.schedule(t), process.schedule(s)
        x0 = denoise(x, t)
        level_t, level_s = 0.5 * logsnr(process.schedule, t), 0.5 * logsnr(process.schedule, s)
        # An infinite step (from alpha = 0, or to sigma = 0) has no second order: extrapolate by nothing.
        usable = state.filled & jnp.isfinite(level_s) & jnp.isfinite(state.level)
        ratio = jnp.where(usable, level_s - level_t, 0.0) / jnp.where(usable, level_t - state.level, 1.0)
        extrapolated = x0 + 0.5 * ratio * (x0 - state.x0)
        x_s = alpha_s * extrapolated + sigma_s * noise_in(x, extrapolated, alpha_t, sigma_t)
        x_s = jnp.where(sigma_s == 0, x0, x_s)
        return x_s, History(x0=x0, level=level_t, filled=jnp.array(True))
