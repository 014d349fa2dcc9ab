"""The devices of this machine, and what a figure was measured on."""

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version

import jax

from experiments.errors import UserError


def choose_devices(wanted: int | None) -> list[jax.Device]:
    """The first `wanted` local devices, or those of all processes.

    Raises:
        UserError: there are not as many, or several processes, which use all of theirs.
    """
    found = jax.local_devices()
    if wanted is None:
        return jax.devices()
    if jax.process_count() > 1:
        raise UserError(f"--devices {wanted} is for one process; several use all their devices: leave it out")
    if not 1 <= wanted <= len(found):
        raise UserError(f"--devices {wanted} were asked for, but this machine has {len(found)}; use 1 to {len(found)}")
    return found[:wanted]


def describe_devices(devices: Sequence[jax.Device]) -> str:
    """For instance "1 x cpu (x86_64, 2 cores)" or "8 x gpu (NVIDIA H100)"."""
    device = devices[0]
    # Those that this process may use, which a container or `taskset` may have made fewer.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    kind = f"{platform.machine()}, {cores} cores" if device.platform == "cpu" else device.device_kind
    return f"{len(devices)} x {device.platform} ({kind})"


def versions() -> dict[str, str]:
    """Of Python and of the libraries that decide the numbers."""
    return {"python": platform.python_version()} | {name: version(name) for name in ("jax", "flax", "optax", "numpy")}
