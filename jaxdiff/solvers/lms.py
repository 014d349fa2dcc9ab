"""LMS: the linear multistep method (Adams-Bashforth) on dx/dt, for unequal steps; after Crowson's k-diffusion."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxdiff.solvers.multistep import History, average, begin, started, started_nfe, uniform_moments
from jaxdiff.solvers.steps import slope
from jaxdiff.types import Denoiser, Noise, Process, Solver, pytree, static


@pytree
class LMS:
    """x_s = x + (s - t) S, S the average over the step of the polynomial through the last `order` slopes dx/dt.

    It integrates in t as `Euler` (order 1) and `Heun` do; on the EDM schedule, whose time is the noise scale, it is
    k-diffusion's LMS. The step to s = 0 returns x0. One call a step.

    Args:
        order: 1 to 4.
        start: takes the first order - 1 steps; a one-step solver of order - 1. None starts with lower orders.
        lower_final: falling orders in the last steps.
    """

    order: int = static(default=4)
    start: Solver | None = None
    lower_final: bool = static(default=False)

    def __post_init__(self):
        if not 1 <= self.order <= 4:
            raise ValueError(f"LMS needs an order from 1 to 4, got {self.order}")

    @property
    def one_call(self) -> bool:
        return self.start is None

    def nfe(self, grid: Float[Array, " N"]) -> Int[Array, ""]:
        return started_nfe(self.start, grid, self.order - 1)

    def init(self, process: Process, x: Float[Array, "B ..."], grid: Float[Array, " N"]) -> History:
        return begin(x, grid, self.order - 1)

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
        x0 = denoise(x, t)
        now = slope(process, x, x0, t)
        nodes = [jnp.zeros_like(t), *((place - t) / (s - t) for place in state.places)]

        def step():
            order = state.order(self.order, self.lower_final)
            averaged = average(nodes, [now, *state.values], uniform_moments(self.order), order)
            return jnp.where(process.schedule(s)[1] == 0, x0, x + (s - t) * averaged)

        at_work = {"keys": keys, "process": process, "denoise": denoise, "denoised": x0, "x": x, "t": t, "s": s}
        return started(self.start, state.taken < self.order - 1, step, **at_work), state.push(now, t)
