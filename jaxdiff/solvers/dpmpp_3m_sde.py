"""SDE-DPM-Solver++(3M): the reverse SDE in log(alpha / sigma), from one call a step and the two before.

Crowson, k-diffusion, after arXiv 2211.01095, app. B.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxdiff import noise
from jaxdiff.solvers.multistep import History, average, begin, exponential_moments
from jaxdiff.solvers.steps import diffuse, level, real_steps
from jaxdiff.types import Denoiser, Noise, Process, Scalar, pytree, static


@pytree
class DPMpp3MSDE:
    """The exact step of the SDE whose noise is scaled by `eta`, for a parabola through three denoised values.

    The parabola lowers the error of the drift, not that of the noise, so the order stays that of `DPMpp2MSDE`.

    Args:
        eta: scale of the noise, >= 0; may be traced.
        published: half the parabola's second derivative, as in k-diffusion.
    """

    eta: Scalar = 1.0
    published: bool = static(default=False)
    order = 2
    strong_order = 1
    one_call = True

    def nfe(self, grid: Float[Array, " N"]) -> Int[Array, ""]:
        return real_steps(grid)

    def init(self, process: Process, x: Float[Array, "B ..."], grid: Float[Array, " N"]) -> History:
        return begin(x, grid, 2)

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
        first, second, third = exponential_moments((1 + self.eta) * h, 3)
        nodes = [jnp.zeros_like(h), *((place - now) / h for place in state.places)]
        moments = [first, second, 0.5 * third if self.published else third]
        averaged = average(nodes, [x0, *state.values], moments, state.order(3, False))
        mean, std = diffuse(x, averaged, at, to, self.eta)
        x_s = noise.add(keys, mean, std)
        return jnp.where(to[1] == 0, x0, x_s), state.push(x0, now)
