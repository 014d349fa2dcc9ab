"""DEIS: the noise as a polynomial in log(alpha / sigma), integrated exactly (arXiv 2204.13902, "log rho AB-DEIS")."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxdiff.solvers.multistep import History, average, begin, exponential_moments, started, started_nfe
from jaxdiff.solvers.steps import carry, carry_noise, level, noise_in
from jaxdiff.types import Denoiser, Noise, Process, Solver, pytree, static


@pytree
class DEIS:
    """x_s = alpha_s / alpha_t x + (sigma_s - alpha_s sigma_t / alpha_t) E, E the average noise over the step.

    The average is that of the polynomial through the last `order` values; order 1 is DDIM. One call a step.

    Args:
        order: 1 to 4; the paper's are 2 and 3.
        start: takes the first order - 1 steps; a one-step solver of order - 1. None starts with lower orders.
        lower_final: falling orders in the last steps.
    """

    order: int = static(default=3)
    start: Solver | None = None
    lower_final: bool = static(default=False)

    def __post_init__(self):
        if not 1 <= self.order <= 4:
            raise ValueError(f"DEIS needs an order from 1 to 4, got {self.order}")

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
        at, to = process.schedule(t), process.schedule(s)
        now, end = level(process.schedule, t), level(process.schedule, s)
        x0 = denoise(x, t)
        eps = noise_in(x, x0, *at)
        h = jnp.where(jnp.isfinite(end) & jnp.isfinite(now), end - now, 1.0)
        nodes = [jnp.zeros_like(h), *((place - now) / h for place in state.places)]

        def step():
            order = state.order(self.order, self.lower_final)
            averaged = average(nodes, [eps, *state.values], exponential_moments(-h, self.order), order)
            x_s = jnp.where(at[0] > 0, carry_noise(x, averaged, at, to), carry(x, x0, at, to))
            return jnp.where((to[1] == 0) | (at[1] == 0), carry(x, x0, at, to), x_s)

        at_work = {"keys": keys, "process": process, "denoise": denoise, "denoised": x0, "x": x, "t": t, "s": s}
        return started(self.start, state.taken < self.order - 1, step, **at_work), state.push(eps, now)
