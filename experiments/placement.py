"""Where a run is computed: on one device, on several by `jax.pmap`, or on a mesh, of one process or of many."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments import distributed
from experiments.errors import UserError
from jaxdiff import parallel


@dataclass(frozen=True, kw_only=True)
class Split:
    """How a run is spread over devices; what these leave is data-parallel."""

    fsdp: int = 1
    """Devices that share one copy of the parameters and the optimiser's state (FSDP, ZeRO-3)."""
    tensor: int = 1
    """Devices that share the features of each layer."""


WHOLE = Split()


class Placement:
    """The devices of a run.

    Args:
        devices: local ones, or those of all processes.
        split: how the parameters are split; by default a copy for each device.

    Raises:
        UserError: a split that does not fit the devices.
    """

    def __init__(self, devices: Sequence[jax.Device], split: Split = WHOLE):
        self.devices = list(devices)
        self.mesh: Mesh | None = None
        if split != WHOLE or jax.process_count() > 1:
            try:
                self.mesh = parallel.make_mesh(self.devices, fsdp=split.fsdp, tensor=split.tensor)
            except ValueError as error:
                raise UserError(f"--split.fsdp and --split.tensor: {error}") from error
        self.rows = len(self.devices) if self.mesh is None else self.mesh.shape["data"] * self.mesh.shape["fsdp"]
        """Devices over which a batch is split."""

    def like(self, make: Callable[[], Any]) -> Any:
        """Shapes of what `make` makes and where they lie, as a checkpoint is restored."""
        shapes = jax.eval_shape(make)
        if self.mesh is None:
            return shapes
        put = lambda a, sharding: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding)
        return jax.tree.map(put, shapes, parallel.shardings(shapes, self.mesh))

    def make(self, make: Callable[[], Any]) -> Any:
        """What `make` makes, never whole on one device where the mesh splits it."""
        if self.mesh is None:
            return make()
        return _compiled(jax.jit(make, out_shardings=parallel.shardings(jax.eval_shape(make), self.mesh)))()

    def spread(self, tree: Any) -> Any:
        """`tree` as `compile`'s step wants it: a copy on each device where there are several."""
        return parallel.replicate(tree, self.devices) if self.mesh is None and len(self.devices) > 1 else tree

    def key(self, seed: int) -> jax.Array:
        if self.mesh is None:
            return self.spread(jax.random.key(seed))
        return jax.jit(lambda: jax.random.key(seed), out_shardings=NamedSharding(self.mesh, PartitionSpec()))()

    def compile(self, step: Callable[..., Any], batch_axis: int) -> Callable[..., Any]:
        """`step`, compiled for these devices; it donates its state."""
        if jax.process_count() > 1:
            return _Together(step, self.mesh, batch_axis)
        if self.mesh is not None:
            return parallel.shard_step(step, self.mesh, batch_axis=batch_axis)
        if len(self.devices) > 1:
            return parallel.pmap_step(step, self.devices, batch_axis=batch_axis)
        return jax.jit(step, donate_argnums=0)

    def gather(self, tree: Any) -> Any:
        """A copy of `tree` that every process can read: the parts of all devices put together."""
        if self.mesh is None:
            return tree
        if jax.process_count() > 1:
            return jax.tree.map(jnp.asarray, multihost_utils.process_allgather(tree, tiled=True))
        return jax.device_put(jax.tree.map(np.asarray, tree), self.devices[0])


class _Together:
    """A sharded step that no process runs before all have compiled it."""

    def __init__(self, step: Callable[..., Any], mesh: Mesh | None, batch_axis: int):
        assert mesh is not None
        self._step, self._mesh, self._axis = parallel.shard_step(step, mesh, batch_axis=batch_axis), mesh, batch_axis
        self._program: Callable[..., Any] | None = None

    def __call__(self, state: Any, key: jax.Array, batch: Any) -> tuple[Any, Any]:
        if self._program is None:
            self._program = _compiled(self._step, state, key, batch)
        return self._program(state, key, parallel.global_batch(batch, self._mesh, axis=self._axis))


def _compiled(function: Any, *args: Any) -> Callable[..., Any]:
    """`function` for these arguments, once all processes have compiled it: their first collective must not wait."""
    program = function.lower(*args).compile()
    distributed.wait_for_all()
    return program
