"""Restart: repeat a part of the way, from noise drawn anew (arXiv 2306.14878, alg. 1)."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxdiff import noise
from jaxdiff.solvers.steps import level
from jaxdiff.types import Denoiser, Noise, Process, Scalar, Solver, pytree, static

_STREAM = 1 << 20  # the draws of the repetitions are not those of the inner solver's own steps


@pytree
class Restart:
    """After the step that passes time `low`: q(x_high | x_s), then `steps` inner steps back to s; `times` over.

    The added noise contracts the errors made so far; the order is the inner solver's.

    Args:
        inner: a one-step solver, `Heun()` in the paper.
        low, high: times, 0 < low < high, with signal at `high`; may be traced.
        times: repetitions; may be traced.
        steps: inner steps of each, equal in (sigma / alpha)^(1/7), the spacing of `grids.karras`.
    """

    inner: Solver
    low: Scalar
    high: Scalar
    times: Scalar = 1
    steps: int = static(default=5)

    @property
    def order(self) -> int:
        return self.inner.order

    def nfe(self, grid: Float[Array, " N"]) -> Int[Array, ""]:
        passes = (grid[1:] <= self.low) & (grid[:-1] > self.low) & (grid[1:] > 0)
        # Which times the repetition visits does not matter to a one-step solver's count, only that it ends in noise.
        again = self.inner.nfe(jnp.linspace(1.0, 0.5, self.steps + 1))
        return self.inner.nfe(grid) + (passes.sum() * self.times * again).astype(int)

    def init(self, process: Process, x: Float[Array, "B ..."], grid: Float[Array, " N"]) -> tuple[()]:
        if jax.tree.leaves(self.inner.init(process, x, grid)):
            raise ValueError(
                f"Restart needs an inner solver without history, got {type(self.inner).__name__}; "
                "use a one-step solver such as Heun()"
            )
        return ()

    def step(
        self,
        keys: Noise,
        process: Process,
        denoise: Denoiser,
        x: Float[Array, "B ..."],
        t: Float[Array, ""],
        s: Float[Array, ""],
        state: Any,
    ) -> tuple[Float[Array, "B ..."], Any]:
        if not noise.is_keys(keys):
            raise ValueError("Restart draws a changing number of normals: pass keys, not an array of noise")
        x, _ = self.inner.step(keys, process, denoise, x, t, s, ())
        root = lambda time: jnp.exp(-level(process.schedule, time) / 7)
        ramp = jnp.linspace(0.0, 1.0, self.steps + 1, dtype=t.dtype)
        high = jnp.asarray(self.high, t.dtype)

        def once(i, x):
            drawn = noise.fold(keys, _STREAM + i)
            again = process.schedule.inverse(-14 * jnp.log(root(high) + ramp * (root(s) - root(high))))
            again = again.at[0].set(high).at[-1].set(s)
            x = process.forward(drawn, x, s, high)

            def back(j, x):
                return self.inner.step(noise.fold(drawn, j), process, denoise, x, again[j], again[j + 1], ())[0]

            return jax.lax.fori_loop(0, self.steps, back, x)

        passed = (s <= self.low) & (self.low < t) & (process.schedule(s)[1] > 0)
        return jax.lax.fori_loop(0, jnp.where(passed, self.times, 0).astype(int), once, x), state
