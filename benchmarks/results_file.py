"""What a benchmark's JSON says of how, where and when it was measured, and how it is written."""

import datetime
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from experiments.hardware import describe_devices, versions


def about(devices: Sequence[jax.Device] | None = None, *, peer: bool = False) -> dict[str, Any]:
    """`{command, hardware, versions, date}`, of the first device by default; with the versions of a peer that raced."""
    hardware = describe_devices(jax.devices()[:1] if devices is None else devices)
    of = versions()
    if peer:
        from benchmarks import peers

        of |= peers.versions()
    return {"command": command(), "hardware": hardware, "versions": of, "date": str(datetime.date.today())}


def command() -> str:
    """What was typed, but for where the JSON went."""
    words = sys.argv[1:]
    if "--json" in words:
        place = words.index("--json")
        words = words[:place] + words[place + 2 :]
    return " ".join(["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *words])


def write(path: Path | None, result: dict[str, Any]) -> None:
    """The result as JSON, its folder with it; nothing without a path."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n")
