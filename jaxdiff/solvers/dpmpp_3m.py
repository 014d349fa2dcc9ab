"""DPM-Solver++(3M): third order in log(alpha / sigma), from one call a step and the two before.

The multistep family of arXiv 2211.01095, app. B.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxdiff.solvers.multistep import History, average, begin, exponential_moments, started, started_nfe
from jaxdiff.solvers.steps import carry, level
from jaxdiff.types import Denoiser, Noise, Process, Solver, pytree, static


@pytree
class DPMpp3M:
    """x_s = alpha_s D + sigma_s (x - alpha_t D) / sigma_t, D the average of a parabola through three denoised values.

    The order grows over the first steps, 1, 2, 3. Such a start leaves an error of order 2; give `start` to reach 3.

    Args:
        start: takes the first two steps; a one-step solver of order 2, such as `DPMpp2S()`, is enough.
        lower_final: order 2 and 1 in the last two steps; steadier for few steps.
        published: half the parabola's second derivative, as in the authors' code and in the libraries that follow it.
            The method is then of second order; use it to reproduce their samples.
    """

    start: Solver | None = None
    lower_final: bool = static(default=False)
    published: bool = static(default=False)
    order = 3

    @property
    def one_call(self) -> bool:
        return self.start is None

    def nfe(self, grid: Float[Array, " N"]) -> Int[Array, ""]:
        return started_nfe(self.start, grid, 2)

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
        x0, order = denoise(x, t), state.order(3, self.lower_final)
        h = jnp.where(jnp.isfinite(end) & jnp.isfinite(now), end - now, 1.0)
        first, second, third = exponential_moments(h, 3)
        # A line through two values is averaged as in DPM-Solver++(2M): its middle.
        moments = [first, jnp.where(order == 2, 0.5, second), 0.5 * third if self.published else third]
        nodes = [jnp.zeros_like(h), *((place - now) / h for place in state.places)]

        def step():
            averaged = average(nodes, [x0, *state.values], moments, order)
            return jnp.where(to[1] == 0, x0, carry(x, averaged, at, to))

        at_work = {"keys": keys, "process": process, "denoise": denoise, "denoised": x0, "x": x, "t": t, "s": s}
        return started(self.start, state.taken < 2, step, **at_work), state.push(x0, now)
