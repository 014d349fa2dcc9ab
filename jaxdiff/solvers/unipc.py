"""UniPC: a multistep predictor whose next call also corrects the step before (arXiv 2302.04867, alg. 1 and 2)."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxdiff.solvers.multistep import History, average, begin, exponential_moments, started, started_nfe
from jaxdiff.solvers.steps import carry, level
from jaxdiff.types import Denoiser, Noise, Process, Solver, pytree, static


@pytree
class Corrected:
    """The history of denoised values, and the last corrected x with its time and the order of the step from it."""

    history: History
    x: Float[Array, "B ..."]
    t: Float[Array, ""]
    order: Int[Array, ""]


@pytree
class UniPC:
    """Predictor and corrector are DDIM steps whose denoised value is averaged over the step in log(alpha / sigma).

    The predictor's is the polynomial through the last p values. The corrector's has one point more, the value at the
    predicted end, which is the next step's own call: so UniPC-p is of order p + 1 for one call a step. With two points
    the paper weights the difference by B(h) / 2 instead of its exact moment.

    Args:
        p: points of the predictor, 1 to 3.
        bh1: B(h) = h; otherwise B(h) = exp(h) - 1, the paper's bh2. They differ where two points are used.
        start: takes the first p steps, uncorrected; a one-step solver of order p. None starts with lower orders.
        lower_final: falling orders in the last steps.
    """

    p: int = static(default=2)
    bh1: bool = static(default=False)
    start: Solver | None = None
    lower_final: bool = static(default=False)

    def __post_init__(self):
        if not 1 <= self.p <= 3:
            raise ValueError(f"UniPC needs p from 1 to 3, got {self.p}")

    @property
    def order(self) -> int:
        return self.p + 1

    @property
    def one_call(self) -> bool:
        return self.start is None

    def nfe(self, grid: Float[Array, " N"]) -> Int[Array, ""]:
        return started_nfe(self.start, grid, self.p)

    def init(self, process: Process, x: Float[Array, "B ..."], grid: Float[Array, " N"]) -> Corrected:
        return Corrected(history=begin(x, grid, self.p), x=x, t=grid[0], order=jnp.zeros((), jnp.int32))

    def step(
        self,
        keys: Noise,
        process: Process,
        denoise: Denoiser,
        x: Float[Array, "B ..."],
        t: Float[Array, ""],
        s: Float[Array, ""],
        state: Corrected,
    ) -> tuple[Float[Array, "B ..."], Corrected]:
        history, schedule = state.history, process.schedule
        at, to = schedule(t), schedule(s)
        now, end = level(schedule, t), level(schedule, s)
        x0 = denoise(x, t)

        # Correct the step that led here: its average over [previous, now] with the value at its end.
        before = history.places[0]
        usable = (state.order > 0) & (history.count > 0) & jnp.isfinite(now)
        h = jnp.where(usable, now - before, 1.0)
        nodes = [jnp.zeros_like(h), jnp.ones_like(h), *((place - before) / h for place in history.places[1:])]
        moments = self._moments(h, self.p + 1, state.order == 1)
        values = [history.values[0], x0, *history.values[1:]]
        corrected = carry(state.x, average(nodes, values, moments, state.order + 1), schedule(state.t), at)
        x_t = jnp.where(usable, corrected, x)

        order = history.order(self.p, self.lower_final)
        h = jnp.where(jnp.isfinite(end) & jnp.isfinite(now), end - now, 1.0)
        nodes = [jnp.zeros_like(h), *((place - now) / h for place in history.places[: self.p - 1])]

        def predicted():
            averaged = average(nodes, [x0, *history.values[: self.p - 1]], self._moments(h, self.p, order == 2), order)
            return jnp.where(to[1] == 0, x0, carry(x_t, averaged, at, to))

        at_work = {"keys": keys, "process": process, "denoise": denoise, "denoised": x0, "x": x, "t": t, "s": s}
        starting = (self.start is not None) & (history.taken < self.p)
        x_s = started(self.start, starting, predicted, **at_work)
        # A starting solver's step is better than what the corrector would make of it.
        taken = jnp.where(starting, 0, order)
        return x_s, Corrected(history=history.push(x0, now), x=jnp.where(starting, x, x_t), t=t, order=taken)

    def _moments(self, h: Float[Array, ""], count: int, two_points: Any) -> list[Float[Array, ""]]:
        moments = exponential_moments(h, count)
        if count > 1:
            half = 0.5 * h / -jnp.expm1(-h) if self.bh1 else 0.5
            moments[1] = jnp.where(two_points, half, moments[1])
        return moments
