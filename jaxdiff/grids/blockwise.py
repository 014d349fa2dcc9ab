"""A grid for block diffusion: one clock that runs through the blocks of a sequence, one after the other.

With J blocks, block j has the global times [1 - (j + 1) / J, 1 - j / J], in which its own time falls from 1 to 0.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.types import is_traced


def blockwise(times: Float[Array, "..."], blocks: int) -> Float[Array, " M"]:
    """The global grid of a block's own grid: t = (J - 1 - j + times[i]) / J, block by block.

    No step goes over the end of a block: the ends are (J - j) / J, rounded once, and `solvers.BlockDiffusion` finds
    its blocks by them. One float holds the block and the time in it, so times that are closer than J units of rounding
    become equal, and equal times are no step: for float32 that is 5e-4 for J = 4096.

    Args:
        times: the grid of one block, shape (n + 1,), decreasing from 1 to 0; any grid but `leading` is one.
        blocks: J, sequence length / block length.

    Returns:
        Times, shape (J n + 1,), from exactly 1 to exactly 0; of NaN where a traced `times` has other ends.

    Raises:
        ValueError: fewer than one block, less than one step, or `times` not from 1 to 0.
    """
    times = jnp.asarray(times, jnp.result_type(float))
    if blocks < 1:
        raise ValueError(f"a sequence has at least 1 block, got {blocks}; pass sequence length // block length")
    if times.ndim != 1 or times.shape[0] < 2:
        raise ValueError(f"the grid of one block needs shape (steps + 1,) with steps >= 1, got {times.shape}")
    whole = (times[0] == 1) & (times[-1] == 0)
    if not is_traced(times) and not whole:
        raise ValueError(
            f"every block goes from noise to data, so its grid must go from 1 to 0, got {times[0]:g} to "
            f"{times[-1]:g}; grids.uniform does"
        )
    left = jnp.arange(blocks - 1, -1, -1, dtype=times.dtype)
    grid = ((left[:, None] + times[1:]) / blocks).reshape(-1)
    return jnp.where(whole, jnp.concatenate([jnp.ones(1, times.dtype), grid]), jnp.nan)
