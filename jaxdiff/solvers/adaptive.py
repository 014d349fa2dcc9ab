"""Adaptive: an embedded Runge-Kutta pair with error control for each sample (Bogacki & Shampine 1989, 3(2))."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxdiff.solvers.steps import slope
from jaxdiff.types import Denoiser, Noise, Process, Scalar, expand, pytree, static


@pytree
class Adaptive:
    """Integrates dx/dt from t to s in as many steps as the tolerance asks for; every sample has its own steps.

    The grid only says where to stop on the way, and its last interval, to s = 0, is one step that returns x0: use
    `grids.from_times([1.0, 0.001, 0.0])`. Deterministic, third order; `denoise` gets a time for each sample, (B,). A
    sample that `most` attempts do not bring to s becomes NaN. Not reverse-differentiable.

    Args:
        rtol, atol: tolerances of a step's error, relative to |x| and absolute; root mean square over a sample.
        most: attempts for each interval of the grid.
    """

    rtol: Scalar = 1e-3
    atol: Scalar = 1e-3
    most: int = static(default=10_000)
    order = 3

    def nfe(self, grid: Float[Array, " N"]) -> Int[Array, ""]:
        raise ValueError("how often Adaptive calls denoise depends on the samples: read it from sample's info.nfe")

    def calls(self, state: Int[Array, ""]) -> Int[Array, ""]:
        """Calls of `denoise` that led to this state; a batch takes as many as its slowest sample."""
        return state

    def init(self, process: Process, x: Float[Array, "B ..."], grid: Float[Array, " N"]) -> Int[Array, ""]:
        return jnp.zeros((), jnp.int32)

    def step(
        self,
        keys: Noise,
        process: Process,
        denoise: Denoiser,
        x: Float[Array, "B ..."],
        t: Float[Array, ""],
        s: Float[Array, ""],
        state: Int[Array, ""],
    ) -> tuple[Float[Array, "B ..."], Int[Array, ""]]:
        batch = x.shape[0]
        forward = lambda x, u: slope(process, x, denoise(x, u), u)
        rms = lambda y: jnp.sqrt((y**2).mean(tuple(range(1, y.ndim))))

        def attempt(carried):
            x, u, h, k1, tries = carried
            left = s - u
            last = jnp.abs(h) >= jnp.abs(left)
            h = jnp.where(last, left, h)
            grown = expand(h, x)
            k2 = forward(x + grown / 2 * k1, u + h / 2)
            k3 = forward(x + 3 * grown / 4 * k2, u + 3 * h / 4)
            new = x + grown * (2 * k1 + 3 * k2 + 4 * k3) / 9
            end = jnp.where(last, s, u + h)
            k4 = forward(new, end)
            error = grown * (-5 * k1 / 72 + k2 / 12 + k3 / 9 - k4 / 8)
            scale = self.atol + self.rtol * jnp.maximum(jnp.abs(x), jnp.abs(new))
            size = rms(error / scale)
            good = (size <= 1) & (left != 0)
            factor = jnp.clip(0.9 * jnp.maximum(size, 1e-10) ** (-1 / 3), 0.2, 5.0)
            keep = lambda a, b: jnp.where(expand(good, a), a, b)
            return keep(new, x), jnp.where(good, end, u), h * factor, keep(k4, k1), tries + 1

        def integrated():
            start = jnp.broadcast_to(t, (batch,))
            carried = (x, start, jnp.broadcast_to((s - t) / 10, (batch,)), forward(x, start), jnp.zeros((), jnp.int32))
            going = lambda c: (c[1] != s).any() & (c[4] < self.most)
            x_s, u, _, _, tries = jax.lax.while_loop(going, attempt, carried)
            return jnp.where(expand(u == s, x_s), x_s, jnp.nan), state + 1 + 3 * tries

        return jax.lax.cond(process.schedule(s)[1] == 0, lambda: (denoise(x, t), state + 1), integrated)
