"""Data-parallel training and sampling over the local devices with `jax.pmap`: the same numbers, more a second.

The state is never stacked: one state pytree serves plain `jit`, `pmap` and meshes.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, Key

from jaxdiff import noise as noise_source
from jaxdiff.parallel.layout import check_divides
from jaxdiff.sampling import Info, batch_size, sample
from jaxdiff.types import Data, Denoiser, Process, Solver, Spec, batch_axes

AXIS = "data"


def replicate(tree: Any, devices: Sequence[jax.Device] | None = None) -> Any:
    """Put a copy of `tree` on each device, as a `pmap_step` should find its state and key at the first call."""
    devices = jax.local_devices() if devices is None else list(devices)
    # An Auto mesh on purpose: jax.make_mesh would give Explicit axes.
    sharding = NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec())
    # device_put alone would leave the caller's arrays as the first device's copy, and the step, which donates its
    # state, would delete them.
    return jax.device_put(jax.tree.map(lambda x: jnp.array(x, copy=True), tree), sharding)


def pmap_step(
    step: Callable[..., Any], devices: Sequence[jax.Device] | None = None, *, batch_axis: int = 0
) -> Callable[..., Any]:
    """`step` from `make_step`, data-parallel over `devices`; same signature, same numbers.

    Args:
        step: `step(state, key, batch, *, axis_name) -> (state, metrics)`.
        devices: local devices, all of them by default.
        batch_axis: the axis of the examples in the batch; 1 for `training.several`.

    Returns:
        `(state, key, batch) -> (state, metrics)`, compiled. The leaves of the batch keep their axis of B examples,
        which the number of devices must divide. The state is donated: do not use it after the call.

    Raises:
        ValueError: at the call, when the devices do not divide the batch.
    """
    devices = jax.local_devices() if devices is None else list(devices)
    mapped = jax.pmap(
        lambda state, key, batch: step(state, key, batch, axis_name=AXIS),
        axis_name=AXIS,
        in_axes=(None, None, batch_axis),
        out_axes=None,
        devices=devices,
        donate_argnums=0,
    )
    split = lambda x: _split(x, len(devices), batch_axis)
    return lambda state, key, batch: mapped(state, key, jax.tree.map(split, batch))


def pmap_sample(
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
    devices: Sequence[jax.Device] | None = None,
) -> tuple[Data, Info]:
    """`jaxdiff.sample`, compiled, with the batch split over `devices`; sample i has the same noise on any of them.

    What belongs to a sample (conditions, guidance scales, observations: the `per_sample` fields of `denoise` and
    `solver`) goes with it. Where devices make different numbers of calls (`Adaptive`), `info.nfe` is the largest.

    Args:
        devices: local devices, all of them by default; the other arguments are those of `sample`.

    Raises:
        ValueError: those of `sample`; the devices do not divide the batch.
    """
    devices = tuple(jax.local_devices() if devices is None else devices)
    size = batch_size(spec, x, x0)
    if noise_source.is_keys(key) and not key.ndim:
        key = noise_source.sample_keys(key, size, first)
    axes = (0, None, batch_axes(denoise, size), batch_axes(solver, size), None, 0, 0, 2)
    arguments = (key, process, denoise, solver, grid, x, x0, noise)
    # None is a leaf here: "not split", or an argument that was not given.
    is_none = lambda node: node is None
    marks, structure = jax.tree.flatten(axes, is_leaf=is_none)
    cut = lambda axis, part: jax.tree.map(lambda leaf: leaf if axis is None else _split(leaf, len(devices), axis), part)
    arguments = jax.tree.map(cut, axes, arguments, is_leaf=is_none)
    part = jax.tree.map(lambda s: jax.ShapeDtypeStruct((s.shape[0] // len(devices), *s.shape[1:]), s.dtype), spec)
    shapes, of_data = jax.tree.flatten(part)  # a dict of shapes is no key of a cache
    samples, nfe, path = _sampler(devices, tuple(marks), structure, tuple(shapes), of_data, trajectory)(*arguments)
    join = lambda tree, axis: jax.tree.map(lambda a: a.reshape((*a.shape[:axis], size, *a.shape[axis + 2 :])), tree)
    return join(samples, 0), Info(nfe=nfe, trajectory=join(path, 1))


@functools.lru_cache(maxsize=64)
def _sampler(devices, marks, structure, shapes, of_data, trajectory):
    """The compiled sampler of one device's part: a new function for each call would be traced anew."""
    spec = of_data.unflatten(shapes)

    def run(key, process, denoise, solver, grid, x, x0, noise):
        start = {"spec": spec, "x": x, "x0": x0, "noise": noise, "trajectory": trajectory}
        samples, info = sample(key, process, denoise, solver, grid, **start)
        return samples, jax.lax.pmax(info.nfe, AXIS), info.trajectory

    axes = structure.unflatten(marks)
    return jax.pmap(run, axis_name=AXIS, in_axes=axes, out_axes=(0, None, 1), devices=devices)


def _split(x: Any, devices: int, axis: int) -> Any:
    """The examples along `axis`, as (devices, examples of each)."""
    check_divides(devices, x.shape[axis])
    return x.reshape((*x.shape[:axis], devices, -1, *x.shape[axis + 1 :]))
