"""Sampling: the only scan over a grid of times.

x_1 ~ prior,    x_s = solver.step(x_t, t -> s) for neighbouring times of the grid,    x_0 = sample
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxdiff import noise as noise_source
from jaxdiff.types import Data, Denoiser, Process, Solver, Spec, pytree

_PRIOR, _STEPS = 0, 1  # independent streams of a sample's key


@pytree
class Info:
    """What a run of the sampler cost and, on request, where it went.

    Attributes:
        nfe: calls of `denoise` for one sample (a classifier-free denoiser evaluates its network twice in each).
        trajectory: x at every time of the grid, shape (steps + 1, B, ...), or None.
        records: what `record` returned after each step, stacked: leaves of shape (steps, ...), or None.
    """

    nfe: Int[Array, ""]
    trajectory: Data | None = None
    records: Any = None


def sample(
    key: Key[Array, "*B"],
    process: Process,
    denoise: Denoiser,
    solver: Solver,
    grid: Float[Array, " N"],
    *,
    spec: Spec | None = None,
    x: Data | None = None,
    x0: Data | None = None,
    noise: Float[Array, "steps draws B ..."] | None = None,
    first: int | Int[Array, ""] = 0,
    trajectory: bool = False,
    record: Callable[..., Any] | None = None,
) -> tuple[Data, Info]:
    """Carry noise to data along `grid`. Pure; memory does not grow with the number of steps.

    Under `jax.jit`, `spec`, `trajectory` and `record` are static: `jax.jit(sample, static_argnames=("spec",
    "trajectory", "record"))`. Everything else is a pytree, so one compilation serves any parameters, solver numbers,
    guidance scale and grid of the same length; equal neighbours in a grid do nothing, which serves fewer steps as well.

    Args:
        key: one typed key, from which each sample's is folded by its index, or one key per sample, shape (B,).
        process: what the data are and how they become noise.
        denoise: `(x, t) -> E[x0 | x_t]`, from `process.denoiser(network)` and `guidance`.
        solver: one reverse step.
        grid: times, shape (steps + 1,); decreasing from noise to data, or increasing to invert.
        spec: shape and dtype of the batch, `jax.ShapeDtypeStruct((B, ...), dtype)`; starts from the prior. For nested
            data a pytree of them; static under `jax.jit`, it must then be hashable: in tuples, or bound by
            `functools.partial`.
        x: starts from this array at time grid[0] instead.
        x0: starts from these data instead, noised to time grid[0]: a grid that begins below 1 edits them, the more
            freely the later it begins (SDEdit, arXiv 2108.01073).
        noise: standard normals to use instead of the keys', shape (steps, draws, B, ...).
        first: index of the first sample: a batch may be cut into calls, and sample i stays bit-equal.
        trajectory: also return x at every time of the grid.
        record: `record(x, s, state) -> pytree` of what to keep of each step: x and the solver's state at its end, s.

    Returns:
        x at grid[-1], shape (B, ...), and `Info`.

    Raises:
        ValueError: not exactly one of `spec`, `x` and `x0`; an untyped key, or keys for another batch; no steps.
    """
    batch = batch_size(spec, x, x0)
    if not noise_source.is_keys(key):
        raise ValueError(f"sample needs a typed key from jax.random.key(seed), got an array of dtype {key.dtype}")
    if grid.ndim != 1 or grid.shape[0] < 2:
        raise ValueError(f"grid must have shape (steps + 1,) with steps >= 1, got {grid.shape}")
    steps = grid.shape[0] - 1
    if key.shape not in ((), (batch,)):
        raise ValueError(f"key must be one key or one per sample, shape () or ({batch},), got {key.shape}")
    if noise is not None and noise.shape[0] != steps:
        raise ValueError(f"noise must have shape (steps = {steps}, draws, B, ...), got {noise.shape}")

    keys = key if key.ndim else noise_source.sample_keys(key, batch, first)
    if spec is not None:
        x = process.prior(noise_source.fold(keys, _PRIOR), spec)
    elif x0 is not None:
        x, _ = process.corrupt(noise_source.fold(keys, _PRIOR), x0, grid[0])
    source = noise_source.fold(keys, _STEPS) if noise is None else noise
    process, denoise = _prepared(process), _prepared(denoise)

    def body(carry, i):
        t, s = grid[i], grid[i + 1]
        move = lambda x, state: solver.step(noise_source.fold(source, i), process, denoise, x, t, s, state)
        x, state = jax.lax.cond(s == t, lambda x, state: (x, state), move, *carry)
        kept = x if trajectory else None, None if record is None else record(x, s, state)
        return (x, state), kept

    carry = x, solver.init(process, x, grid)
    (last, state), (visited, records) = jax.lax.scan(body, carry, jnp.arange(steps))
    path = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), x, visited) if trajectory else None
    return last, Info(nfe=_calls(solver, state, grid), trajectory=path, records=records)


def batch_size(spec: Spec | None, x: Data | None, x0: Data | None) -> int:
    """The number of samples that `sample` draws from its one start."""
    if sum(start is not None for start in (spec, x, x0)) != 1:
        raise ValueError(
            "sample needs exactly one of spec (start from noise), x (start from this array) and x0 (start from these "
            "data with noise)"
        )
    return jax.tree.leaves((spec, x, x0))[0].shape[0]


def _prepared(tree: Any) -> Any:
    """With whatever its parts derive from their numbers alone derived here, before the loop (see `FromBetas`)."""
    can = lambda part: hasattr(part, "prepared")
    return jax.tree.map(lambda part: part.prepared() if can(part) else part, tree, is_leaf=can)


def _calls(solver: Solver, state: Any, grid: Float[Array, " N"]) -> Int[Array, ""]:
    """Counted by a solver that decides on the way, such as `Adaptive`; else what it declares for the grid."""
    count = getattr(solver, "calls", None)
    return solver.nfe(grid) if count is None else count(state)
