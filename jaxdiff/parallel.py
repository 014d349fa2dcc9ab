"""Data-parallel training over the local devices with `jax.pmap`: the same step and numbers, more examples a second.

The state is never stacked: one state pytree serves plain `jit`, `pmap` and meshes.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "data"


def replicate(tree: Any, devices: Sequence[jax.Device] | None = None) -> Any:
    """Put a copy of `tree` on each device, as a `pmap_step` should find its state and key at the first call."""
    devices = jax.local_devices() if devices is None else list(devices)
    # An Auto mesh on purpose: jax.make_mesh would give Explicit axes.
    sharding = NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec())
    # device_put alone would leave the caller's arrays as the first device's copy, and the step, which donates its
    # state, would delete them.
    return jax.device_put(jax.tree.map(lambda x: jnp.array(x, copy=True), tree), sharding)


def pmap_step(step: Callable[..., Any], devices: Sequence[jax.Device] | None = None) -> Callable[..., Any]:
    """`step` from `make_step`, data-parallel over `devices`; same signature, same numbers.

    Args:
        step: `step(state, key, batch, *, axis_name) -> (state, metrics)`.
        devices: local devices, all of them by default.

    Returns:
        `(state, key, batch) -> (state, metrics)`, compiled. The leaves of the batch keep their leading axis B, which
        the number of devices must divide. The state is donated: do not use it after the call.

    Raises:
        ValueError: at the call, when the devices do not divide the batch.
    """
    devices = jax.local_devices() if devices is None else list(devices)
    mapped = jax.pmap(
        lambda state, key, batch: step(state, key, batch, axis_name=AXIS),
        axis_name=AXIS,
        in_axes=(None, None, 0),
        out_axes=None,
        devices=devices,
        donate_argnums=0,
    )

    def parallel(state, key, batch):
        return mapped(state, key, jax.tree.map(split, batch))

    def split(x):
        if x.shape[0] % len(devices):
            raise ValueError(
                f"{len(devices)} devices must divide the batch, got a batch of {x.shape[0]}; "
                f"{x.shape[0] - x.shape[0] % len(devices)} or {x.shape[0] + -x.shape[0] % len(devices)} would do"
            )
        return x.reshape((len(devices), -1, *x.shape[1:]))

    return parallel
