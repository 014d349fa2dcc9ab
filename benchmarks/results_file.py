"""What a benchmark's JSON says of where and when it was measured, and how it is written."""

import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from experiments.hardware import describe_devices, versions


def about(devices: Sequence[jax.Device] | None = None) -> dict[str, Any]:
    """`{hardware, versions, date}`; of the first device by default."""
    hardware = describe_devices(jax.devices()[:1] if devices is None else devices)
    return {"hardware": hardware, "versions": versions(), "date": str(datetime.date.today())}


def write(path: Path | None, result: dict[str, Any]) -> None:
    """The result as JSON, its folder with it; nothing without a path."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n")
