"""DPM-Solver++(2M): second order in log(alpha / sigma), from one call a step and the previous one.

arXiv 2211.01095, alg. 2.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxdiff.solvers.multistep import History, begin
from jaxdiff.solvers.steps import carry, level, real_steps
from jaxdiff.types import Denoiser, Noise, Process, pytree, static


@pytree
class DPMpp2M:
    """x_s = alpha_s D + sigma_s (x - alpha_t D) / sigma_t with D = x0 + h (x0 - x0_prev) / (2 h_prev).

    h is the step in log(alpha / sigma). The first step, the one after alpha = 0, and the step to s = 0 are DDIM's.

    Args:
        lower_final: the last step is DDIM's even where it ends in noise.
    """

    lower_final: bool = static(default=False)
    order = 2
    one_call = True

    def nfe(self, grid: Float[Array, " N"]) -> Int[Array, ""]:
        return real_steps(grid)

    def init(self, process: Process, x: Float[Array, "B ..."], grid: Float[Array, " N"]) -> History:
        return begin(x, grid, 1)

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
        at, to = process.schedule(t), process.schedule(s)
        now, end = level(process.schedule, t), level(process.schedule, s)
        x0 = denoise(x, t)
        usable = (state.order(2, self.lower_final) > 1) & jnp.isfinite(end)
        step, previous_step = jnp.where(usable, end - now, 0.0), jnp.where(usable, now - state.places[0], 1.0)
        average = x0 + 0.5 * step / previous_step * (x0 - state.values[0])
        return jnp.where(to[1] == 0, x0, carry(x, average, at, to)), state.push(x0, now)
