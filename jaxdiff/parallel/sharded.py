"""Training and sampling on a mesh: one program for all devices, split by the compiler (GSPMD, arXiv 2105.04663)."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.lax import with_sharding_constraint
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, Key

from jaxdiff import noise as noise_source
from jaxdiff.parallel.layout import RULES, Rules, check_divides, global_batch, rows, shardings
from jaxdiff.sampling import Info, batch_size, sample
from jaxdiff.types import Data, Denoiser, Process, Solver, Spec, batch_axes


class ShardedStep:
    """What `shard_step` returns: called like the step; `lower` shows the program instead of running it."""

    def __init__(self, step: Callable[..., Any], mesh: Mesh, rules: Rules, batch_axis: int):
        def placed(state, key, batch):
            constrain = lambda state: with_sharding_constraint(state, shardings(state, mesh, rules))
            state, metrics = step(constrain(state), key, batch)
            return constrain(state), with_sharding_constraint(metrics, NamedSharding(mesh, PartitionSpec()))

        self._mesh, self._axis = mesh, batch_axis
        self._compiled = jax.jit(placed, donate_argnums=0)

    def __call__(self, state: Any, key: Key[Array, ""], batch: Any) -> tuple[Any, Any]:
        return self._compiled(state, key, global_batch(batch, self._mesh, axis=self._axis))

    def lower(self, state: Any, key: Any, batch: Any) -> Any:
        """`jax.jit`'s `lower`, for the compiler's own account of memory and communication."""
        return self._compiled.lower(state, key, global_batch(batch, self._mesh, axis=self._axis))


def shard_step(step: Callable[..., Any], mesh: Mesh, rules: Rules = RULES, *, batch_axis: int = 0) -> ShardedStep:
    """`step` from `make_step`, on a mesh; same signature, and in float32 the same numbers.

    Under bfloat16 compute the compiler may add up gradients of devices in bfloat16.

    Args:
        step: `step(state, key, batch) -> (state, metrics)`.
        mesh: from `make_mesh`.
        rules: which axes of which parameters may be split; see `jaxdiff.parallel.layout`.
        batch_axis: the axis of the examples in the batch; 1 for `training.several`.

    Returns:
        `(state, key, batch) -> (state, metrics)`, compiled. The state is one that `place` put on the mesh, and is
        donated: do not use it after the call. The batch is that of this process, arrays of any kind.

    Raises:
        ValueError: at the call, when the mesh cannot split the batch evenly.
    """
    return ShardedStep(step, mesh, rules, batch_axis)


def shard_sample(
    key: Key[Array, "*B"],
    process: Process,
    denoise: Denoiser,
    solver: Solver,
    grid: Float[Array, " N"],
    *,
    mesh: Mesh,
    spec: Spec | None = None,
    x: Data | None = None,
    x0: Data | None = None,
    noise: Float[Array, "steps draws B ..."] | None = None,
    first: int | Int[Array, ""] = 0,
    trajectory: bool = False,
    record: Callable[..., Any] | None = None,
) -> tuple[Data, Info]:
    """`jaxdiff.sample`, compiled, with the batch split over the data and fsdp axes of `mesh`.

    Parameters inside `denoise` stay where they lie: put them on the mesh with `place`. The result is one array on the
    mesh.

    Raises:
        ValueError: those of `sample`; a batch that the mesh cannot split evenly.
    """
    size = batch_size(spec, x, x0)
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    check_divides(parts, size)
    shapes, of_data = jax.tree.flatten(spec)  # a dict of shapes cannot be static
    static = {"mesh": mesh, "spec": (of_data, tuple(shapes)), "trajectory": trajectory, "record": record}
    return _sharded(key, process, denoise, solver, grid, x, x0, noise, first, **static)


@functools.partial(jax.jit, static_argnames=("mesh", "spec", "trajectory", "record"))
def _sharded(key, process, denoise, solver, grid, x, x0, noise, first, *, mesh, spec, trajectory, record):
    is_none = lambda node: node is None
    split = lambda tree, axis=0: jax.tree.map(lambda a: with_sharding_constraint(a, rows(mesh, axis)), tree)
    of_data, shapes = spec
    spec = of_data.unflatten(shapes)
    size = batch_size(spec, x, x0)
    if noise_source.is_keys(key) and not key.ndim:
        key = noise_source.sample_keys(key, size, first)

    def split_samples(tree):
        axes = batch_axes(tree, size)
        return jax.tree.map(lambda axis, part: part if axis is None else split(part), axes, tree, is_leaf=is_none)

    result, info = sample(
        split(key) if key.ndim else key,
        process,
        split_samples(denoise),
        split_samples(solver),
        grid,
        spec=spec,
        x=split(x),
        x0=split(x0),
        noise=noise if noise is None else split(noise, 2),
        trajectory=trajectory,
        record=record,
    )
    return split(result), info
