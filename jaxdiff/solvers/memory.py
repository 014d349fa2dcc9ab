"""Denoisers with memory: what one step learns, the next one sees.

Momentum, cached features, self-conditioning and keys and values are denoisers `(x, t, memory) -> (x0, memory)`. The
memory travels in the solver's state, through the scan like any other.
"""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Float, Int

from jaxdiff.types import Data, Noise, Process, Solver, pytree


@pytree
class Memory:
    """Another solver's steps with a denoiser that has a memory: `Memory(inner=DDIM(), start=jnp.zeros_like)`.

    A step calls `denoise(x, t, memory) -> (x0, memory)` once, and gives the inner solver a denoiser that returns this
    x0. Order and calls are the inner solver's. `Memory` does not declare `one_call` itself, because a wrapper around
    it would have to give it a memory.

    Args:
        inner: a solver that declares `one_call`.
        start: `x -> memory`, the memory before the first step: a pytree of arrays, whose shapes and dtypes the denoiser
            keeps.

    Raises:
        ValueError: an inner solver that calls its denoiser more than once a step: its calls at other places would get
            the value of the first.
    """

    inner: Solver
    start: Callable[..., Any]

    def __post_init__(self):
        if not getattr(self.inner, "one_call", False):
            raise ValueError(
                f"Memory needs an inner solver that calls its denoiser once a step, at (x, t), and declares "
                f"one_call = True, got {type(self.inner).__name__}; solvers.DDIM() and solvers.DPMpp2M() do"
            )
        if jax.tree_util.all_leaves([self.start]):  # a plain function: as a pytree, `jax.jit` takes the solver
            object.__setattr__(self, "start", jax.tree_util.Partial(self.start))

    @property
    def order(self) -> int:
        return self.inner.order

    def nfe(self, grid: Float[Array, " N"]) -> Int[Array, ""]:
        return self.inner.nfe(grid)

    def init(self, process: Process, x: Data, grid: Float[Array, " N"]) -> tuple[Any, Any]:
        return self.inner.init(process, x, grid), self.start(x)

    def step(
        self,
        keys: Noise,
        process: Process,
        denoise: Callable[..., tuple[Data, Any]],
        x: Data,
        t: Float[Array, ""],
        s: Float[Array, ""],
        state: tuple[Any, Any],
    ) -> tuple[Data, tuple[Any, Any]]:
        inner, memory = state
        x0, memory = denoise(x, t, memory)
        x_s, inner = self.inner.step(keys, process, lambda x, t, cond=None: x0, x, t, s, inner)
        return x_s, (inner, memory)
