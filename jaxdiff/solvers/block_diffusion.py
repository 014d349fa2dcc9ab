"""Block diffusion: a sequence is sampled block after block, each by diffusion given those before it (2503.09573).

    log p(x) = sum over blocks of log p(x^j | x^<j)                                       (arXiv 2503.09573, eq. 3)

A block of one token is autoregression, and one block is plain diffusion. The clock of the sampler runs through all
blocks: of J, block j has the global times [1 - (j + 1) / J, 1 - j / J], and its own falls from 1 to 0 in them while
the earlier blocks are at 0, the later ones at 1. `grids.blockwise` makes the global grid.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from jaxdiff import noise
from jaxdiff.types import Condition, Noise, Process, Solver, Time, is_traced, pytree, static

Sequence = Shaped[Array, "B L ..."]


class BlockState(NamedTuple):
    """What is carried from step to step.

    Attributes:
        grid: the global grid, from which each block's own follows.
        inner: the inner solver's state, begun anew with each block.
        cache: the denoiser's, or None.
        known: blocks in the cache.
        calls: calls on a block so far, or those that were planned when it began.
    """

    grid: Float[Array, " N"]
    inner: Any
    cache: Any
    known: Int[Array, ""]
    calls: Int[Array, ""]


@pytree
class BlockDiffusion:
    """Another solver's steps on one block of the second axis after the other.

    The denoiser is one of two.

    - A function `(x, t)` of the whole sequence that takes a time for each token, shape (B, L) or (1, L): 0 in finished
      blocks, 1 in later ones, which hold noise. That is `process.denoiser(network)`, an exact oracle, or guidance by a
      rule that does not ask for the time. Each call costs that of the whole sequence. With one block it gets the scalar
      t, and the samples are the inner solver's to the bit.
    - One with a cache, such as `processes.CachedDenoiser`: members `block(z, t, start, cache)`, the denoised block that
      begins at token `start`, and `extend(x, start, cache) -> cache`. Give the solver its `empty` as `start`. Before
      the first step of a block, the blocks before it that are not in the cache yet go into it, J - 1 extensions in
      all; `info.nfe` does not count them.

    A grid that begins at the end of block j goes on from the blocks before it, as they are in `x`: a prompt of whole
    blocks needs no steps. A step that crosses the end of a block is refused where the grid is known; in a compiled
    program it finishes its own block, and a block that no step begins in keeps its noise.

    Args:
        inner: the solver of each block, `Ancestral()`, `FirstHitting()` or any other whose noise is typed keys or has
            the data's shape.
        block: elements of a block, a divisor of L.
        start: `batch -> cache`, the cache before the first block; None for a denoiser without one.

    Raises:
        ValueError: a block below 1; at the first step, one that does not divide the sequence, a grid whose steps go
            up or cross a block's end, or a cache without `start` or the other way round.
    """

    inner: Solver
    block: int = static()
    start: Callable[..., Any] | None = None

    def __post_init__(self):
        if self.block < 1:
            raise ValueError(f"a block needs at least 1 element, got {self.block}; 1 is autoregression")
        if self.start is not None and jax.tree_util.all_leaves([self.start]):  # a function: `jax.jit` takes the solver
            object.__setattr__(self, "start", jax.tree_util.Partial(self.start))

    @property
    def order(self) -> int:
        return self.inner.order

    def nfe(self, grid: Float[Array, " N"]) -> Int[Array, ""]:
        """The inner solver's count for the whole grid, right for one call a step; `info.nfe` counts each block."""
        return self.inner.nfe(grid)

    def calls(self, state: BlockState) -> Int[Array, ""]:
        """Calls of the denoiser on a block that led to this state, extensions of its cache not among them."""
        return state.calls

    def init(self, process: Process, x: Sequence, grid: Float[Array, " N"]) -> BlockState:
        blocks = self._blocks(x)
        if not is_traced(grid):
            self._check(grid, blocks)
        u = _turns(grid, blocks)
        left = _left(u[0], blocks)
        inner, planned = self._begin(process, self._cut(x, blocks - 1 - left), _own(u, left))
        return BlockState(
            grid=grid,
            inner=inner,
            cache=None if self.start is None else self.start(x.shape[0]),
            known=jnp.zeros((), jnp.int32),
            calls=jnp.where(_own(u[0], left) == 1, 0, planned),  # a block's first step plans its calls
        )

    def step(
        self,
        keys: Noise,
        process: Process,
        denoise: Any,
        x: Sequence,
        t: Float[Array, ""],
        s: Float[Array, ""],
        state: BlockState,
    ) -> tuple[Sequence, BlockState]:
        blocks = self._blocks(x)
        cached = hasattr(denoise, "block")
        if cached != (self.start is not None):
            raise ValueError(
                "a denoiser with a cache needs its first one, BlockDiffusion(..., start=denoise.empty), and another "
                f"denoiser start=None; got {type(denoise).__name__} and start={self.start}"
            )
        left = _left(_turns(t, blocks), blocks)
        own_t, own_s = (_own(_turns(time, blocks), left) for time in (t, s))
        j = blocks - 1 - left

        def move(whole, state):
            z = self._cut(whole, j)
            cache, known = state.cache, state.known
            if cached:
                learn = lambda i, cache: denoise.extend(self._cut(whole, i), i * self.block, cache)
                cache, known = jax.lax.fori_loop(known, j, learn, cache), jnp.maximum(known, j)
            begin = lambda: self._begin(process, z, _own(_turns(state.grid, blocks), left))
            inner, planned = jax.lax.cond(own_t == 1, begin, lambda: (state.inner, jnp.zeros((), jnp.int32)))

            def part(x: Sequence, t: Time, cond: Condition = None) -> Array:
                if cached:
                    return denoise.block(x, t, j * self.block, cache)
                if blocks == 1:
                    return denoise(x, t, cond)
                return self._cut(denoise(self._put(whole, x, j), self._clock(whole, t, j), cond), j)

            drawn = keys if noise.is_keys(keys) else self._cut(keys, j, axis=2)
            z, after = self.inner.step(drawn, process, part, z, own_t, own_s, inner)
            count = getattr(self.inner, "calls", None)
            counted = planned if count is None else count(after) - count(inner)
            return self._put(whole, z, j), BlockState(state.grid, after, cache, known, state.calls + counted)

        # Times that differ may be the same end of a block after rounding.
        return jax.lax.cond(own_s == own_t, lambda x, state: (x, state), move, x, state)

    def _begin(self, process: Process, z: Sequence, grid: Float[Array, " N"]) -> tuple[Any, Int[Array, ""]]:
        """The inner solver's first state on a block, and how often it will call, unless it counts itself."""
        planned = 0 if hasattr(self.inner, "calls") else self.inner.nfe(grid)
        return self.inner.init(process, z, grid), jnp.asarray(planned, jnp.int32)

    def _blocks(self, x: Sequence) -> int:
        if x.ndim < 2 or x.shape[1] % self.block:
            raise ValueError(
                f"blocks of {self.block} must divide the second axis of data of shape (B, L, ...), got {x.shape}"
            )
        return x.shape[1] // self.block

    def _check(self, grid: Float[Array, " N"], blocks: int) -> None:
        """No step goes up, or from one block into another."""
        with jax.ensure_compile_time_eval():
            u = np.asarray(_turns(grid, blocks))
        bad = (u[1:] > u[:-1]) | (u[1:] < np.ceil(u[:-1]) - 1)
        if bad.any():
            i = int(bad.argmax())
            raise ValueError(
                f"a step must go down within one of {blocks} blocks, which end at multiples of 1/{blocks}, got one "
                f"from {grid[i]:g} to {grid[i + 1]:g}; grids.blockwise(times, {blocks}) makes such a grid"
            )

    def _cut(self, x: Shaped[Array, "..."], j: Int[Array, ""], axis: int = 1) -> Shaped[Array, "..."]:
        return jax.lax.dynamic_slice_in_dim(x, j * self.block, self.block, axis)

    def _put(self, x: Shaped[Array, "..."], z: Shaped[Array, "..."], j: Int[Array, ""]) -> Shaped[Array, "..."]:
        return jax.lax.dynamic_update_slice_in_dim(x, z, j * self.block, 1)

    def _clock(self, x: Sequence, t: Time, j: Int[Array, ""]) -> Float[Array, "..."]:
        """A time for each element: t, a prefix of the block's shape, in block j, 0 before it and 1 behind it."""
        t = jnp.asarray(t)
        t = t.reshape(t.shape + (1,) * (2 - t.ndim))
        t = jnp.broadcast_to(t, (t.shape[0], self.block, *t.shape[2:]))
        behind = (jnp.arange(x.shape[1]) >= (j + 1) * self.block).astype(t.dtype)
        behind = behind.reshape(1, -1, *(1,) * (t.ndim - 2))
        return self._put(jnp.broadcast_to(behind, (t.shape[0], x.shape[1], *t.shape[2:])), t, j)


def _turns(t: Float[Array, "..."], blocks: int) -> Float[Array, "..."]:
    """Blocks that are left to do at the global time t: t * blocks, exactly whole at the ends of blocks.

    The end k / blocks, rounded by division and again by this product, is off by less than `blocks` units of rounding.
    """
    if blocks == 1:
        return t
    u = t * blocks
    return jnp.where(jnp.abs(u - jnp.round(u)) <= 2 * jnp.finfo(u.dtype).eps * blocks, jnp.round(u), u)


def _left(u: Float[Array, ""], blocks: int) -> Int[Array, ""]:
    """Whole blocks behind the one that a step from u is in; at its end, u belongs to the next."""
    return jnp.clip(jnp.ceil(u).astype(jnp.int32) - 1, 0, blocks - 1)


def _own(u: Float[Array, "..."], left: Int[Array, ""]) -> Float[Array, "..."]:
    """The time of the block with `left` blocks behind it: exact, as both are floats of one magnitude."""
    return jnp.clip(u - left.astype(u.dtype), 0.0, 1.0)
