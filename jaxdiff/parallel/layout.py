"""Which device holds what: a mesh with the axes data, fsdp and tensor, and rules that say how arrays lie on it.

    data     devices with the same parameters and different examples
    fsdp     different examples, and each device holds a part of every parameter, average and moment; the compiler
             gathers a layer's parameters where they are used (ZeRO-3, arXiv 1910.02054)
    tensor   the same examples, and each device computes a part of a layer's features (arXiv 1909.08053, sec. 3)

A rule names the axes of a parameter by what they mean. `heads` and `hidden` are split over `tensor`: the first map of a
pair makes them, the second sums over them. What is left of an array is split over `fsdp` along its longest axis that
can be. Optimiser states and averages have the parameters' paths at the end of their own, so the same rules place them.
"""

import re
from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Rules: TypeAlias = Sequence[tuple[str, tuple[str | None, ...]]]
"""`(pattern, names of the axes)`: a pattern matches the end of a parameter's path, "blocks/0/first/kernel"."""

ROWS = ("data", "fsdp")
"""The mesh axes over which examples are split."""

RULES: Rules = (
    ("attention/qkv/kernel", ("width", "heads")),
    ("attention/qkv/bias", ("heads",)),
    ("attention/out/kernel", ("heads", "width")),
    (r"(blocks|down|middle|up)/\d+/first/kernel", (None, None, "width", "hidden")),
    (r"(blocks|down|middle|up)/\d+/first/bias", ("hidden",)),
    (r"(blocks|down|middle|up)/\d+/last/kernel", (None, None, "hidden", "width")),
)
"""Of MLP, U-Net and DiT: the names stand for the last axes, so a linear map and a convolution share a line.

The scales and shifts of adaptive norms are not split over `tensor`: with data, fsdp and tensor all above 1 XLA
(jaxlib 0.10.2) then gives wrong numbers for the MLP, without a word.
"""

_SPLIT = {"heads": "tensor", "hidden": "tensor"}


def make_mesh(devices: Sequence[jax.Device] | None = None, *, fsdp: int = 1, tensor: int = 1) -> Mesh:
    """A mesh (data, fsdp, tensor); what `fsdp` and `tensor` leave of the devices is `data`.

    Args:
        devices: of all processes by default.
        fsdp: devices that share one copy of the parameters.
        tensor: devices that share the features of a layer. Neighbours, so that they belong to one process.

    Raises:
        ValueError: fsdp * tensor does not divide the devices, or tensor those of each process.
    """
    devices = jax.devices() if devices is None else list(devices)
    if fsdp < 1 or tensor < 1 or len(devices) % (fsdp * tensor):
        raise ValueError(
            f"fsdp * tensor must divide the {len(devices)} devices, got {fsdp} * {tensor}; choose divisors of it"
        )
    if jax.process_count() > 1 and jax.local_device_count() % tensor:
        raise ValueError(
            f"tensor must divide the {jax.local_device_count()} devices of a process, got {tensor}: "
            "the devices that share an example must be in one"
        )
    # Auto axes on purpose: the compiler places what the rules leave open. jax.make_mesh would make Explicit ones.
    return Mesh(np.array(devices).reshape(-1, fsdp, tensor), (*ROWS, "tensor"))


def shardings(tree: Any, mesh: Mesh, rules: Rules = RULES) -> Any:
    """Where each array of `tree` (parameters, `TrainState`, or their shapes) lies on `mesh`, as `NamedSharding`s."""
    place = lambda path, leaf: NamedSharding(mesh, _spec(path, jnp.shape(leaf), mesh, rules))
    return jax.tree_util.tree_map_with_path(place, tree)


def place(tree: Any, mesh: Mesh, rules: Rules = RULES) -> Any:
    """A copy of `tree` on `mesh`, as `shard_step` should find its state at the first call.

    A copy, because the step donates its state. To make a state that does not fit one device, compile what makes it with
    `out_shardings=shardings(jax.eval_shape(make), mesh)` instead.
    """
    copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=shardings(tree, mesh, rules))
    return copy(tree)


def global_batch(batch: Any, mesh: Mesh, *, axis: int = 0) -> Any:
    """The examples of this process as its part of one batch on `mesh`, split along `axis` over data and fsdp.

    Shapes (`jax.ShapeDtypeStruct`) stay shapes, with their place on the mesh: to compile for devices that are not here.

    Raises:
        ValueError: the mesh cannot split the batch evenly.
    """
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    local = max(1, parts // jax.process_count())

    def put(leaf: Any) -> Any:
        check_divides(local, leaf.shape[axis])
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=rows(mesh, axis))
        return jax.make_array_from_process_local_data(rows(mesh, axis), leaf)

    return jax.tree.map(put, batch)


def check_divides(devices: int, size: int) -> None:
    """Every device gets as many examples as the others.

    Raises:
        ValueError: `devices` do not divide a batch of `size`.
    """
    if size % devices:
        raise ValueError(
            f"{devices} devices must divide the batch, got a batch of {size}; {size - size % devices} or "
            f"{size + -size % devices} would do"
        )


def rows(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Examples along `axis`, split over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(*(None,) * axis, ROWS))


def _spec(path: tuple[Any, ...], shape: tuple[int, ...], mesh: Mesh, rules: Rules) -> PartitionSpec:
    name = "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)
    names = next((names for pattern, names in rules if re.search(f"(^|/){pattern}$", name)), ())
    names = (
        names[len(names) - len(shape) :] if len(shape) <= len(names) else (None,) * (len(shape) - len(names)) + names
    )
    divides = lambda axis, size: mesh.shape[axis] > 1 and size % mesh.shape[axis] == 0
    wanted = [_SPLIT.get(name or "") for name in names]
    axes = [axis if axis and divides(axis, size) else None for axis, size in zip(wanted, shape, strict=True)]
    free = [i for i, axis in enumerate(axes) if axis is None and divides("fsdp", shape[i])]
    if free:
        axes[max(free, key=lambda i: shape[i])] = "fsdp"
    while axes and axes[-1] is None:
        axes.pop()  # the compiler's way to write it: another spelling would compile the second step anew
    return PartitionSpec(*axes)
