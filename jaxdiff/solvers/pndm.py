"""PNDM: DDIM's step with the noise of Adams-Bashforth (arXiv 2202.09778, eq. 12; without a start iPNDM, 2204.13902)."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxdiff.solvers.multistep import History, begin, started, started_nfe
from jaxdiff.solvers.steps import carry, carry_noise, noise_in
from jaxdiff.types import Denoiser, Noise, Process, Solver, pytree

_WEIGHTS = ((1, 0, 0, 0), (3 / 2, -1 / 2, 0, 0), (23 / 12, -16 / 12, 5 / 12, 0), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


@pytree
class PNDM:
    """x_s = alpha_s / alpha_t x + (sigma_s - alpha_s sigma_t / alpha_t) E, E = (55 e - 59 e1 + 37 e2 - 9 e3) / 24.

    The weights are those of equal steps in t: use it on such grids, where it is of second order. (On others of first;
    `DEIS` is the method for any grid.) One call a step.

    Args:
        start: takes the first three steps. None starts with one, two and three noises.
    """

    start: Solver | None = None
    order = 2

    @property
    def one_call(self) -> bool:
        return self.start is None

    def nfe(self, grid: Float[Array, " N"]) -> Int[Array, ""]:
        return started_nfe(self.start, grid, 3)

    def init(self, process: Process, x: Float[Array, "B ..."], grid: Float[Array, " N"]) -> History:
        return begin(x, grid, 3)

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
        x0 = denoise(x, t)
        eps = noise_in(x, x0, *at)

        def step():
            weights = jnp.asarray(_WEIGHTS, x.dtype)[state.order(4, False) - 1]
            noise = jnp.tensordot(weights, jnp.stack([eps, *state.values]), 1)
            plain = (to[1] == 0) | (at[0] == 0) | (at[1] == 0)
            return jnp.where(plain, carry(x, x0, at, to), carry_noise(x, noise, at, to))

        # Noise seen where there was no signal, or at the data, says nothing of its course.
        place = jnp.where((at[0] > 0) & (at[1] > 0), t, jnp.inf)
        at_work = {"keys": keys, "process": process, "denoise": denoise, "denoised": x0, "x": x, "t": t, "s": s}
        return started(self.start, state.taken < 3, step, **at_work), state.push(eps, place)
