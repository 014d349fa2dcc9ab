"""SDE-DPM-Solver++(2M): the reverse SDE in log(alpha / sigma), from one call a step and the previous one.

arXiv 2211.01095, sec. 5 and app. D.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxdiff import noise
from jaxdiff.solvers.multistep import History, average, begin, exponential_moments
from jaxdiff.solvers.steps import diffuse, level, real_steps
from jaxdiff.types import Denoiser, Noise, Process, Scalar, pytree, static


@pytree
class DPMpp2MSDE:
    """The exact step of the SDE whose noise is scaled by `eta`, for a line through two denoised values.

    With eta = 0 it is DPM-Solver++(2M); with one value, the first step, eta = 1 is `Ancestral`.

    Args:
        eta: scale of the noise, >= 0; may be traced.
        heun: average the line exactly (k-diffusion's solver type "heun") instead of taking its middle.
    """

    eta: Scalar = 1.0
    heun: bool = static(default=False)
    order = 2
    strong_order = 1
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
        h = jnp.where(jnp.isfinite(end) & jnp.isfinite(now), end - now, 1.0)
        moments = exponential_moments((1 + self.eta) * h, 2) if self.heun else [1.0, 0.5]
        nodes = [jnp.zeros_like(h), (state.places[0] - now) / h]
        averaged = average(nodes, [x0, *state.values], moments, state.order(2, False))
        mean, std = diffuse(x, averaged, at, to, self.eta)
        x_s = noise.add(keys, mean, std)
        return jnp.where(to[1] == 0, x0, x_s), state.push(x0, now)
