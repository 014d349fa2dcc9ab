"""What a figure was measured on."""

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version

import jax


def describe_devices(devices: Sequence[jax.Device]) -> str:
    """For instance "1 x cpu (x86_64, 2 cores)" or "8 x gpu (NVIDIA H100)"."""
    device = devices[0]
    kind = f"{platform.machine()}, {os.cpu_count()} cores" if device.platform == "cpu" else device.device_kind
    return f"{len(devices)} x {device.platform} ({kind})"


def versions() -> dict[str, str]:
    """Of Python and of the libraries that decide the numbers."""
    return {"python": platform.python_version()} | {name: version(name) for name in ("jax", "flax", "optax", "numpy")}
