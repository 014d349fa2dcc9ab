"""Whether a benchmark races its peer, PyTorch with diffusers: only where both are installed."""

import argparse
import importlib.util
import sys


def with_peer(parser: argparse.ArgumentParser, asked: str | None) -> bool:
    """What `--peer` came to: None races where there is somebody to race with, and says so where there is not.

    A peer that was asked for by name and is not installed ends the program.
    """
    there = all(importlib.util.find_spec(name) for name in ("diffusers", "torch"))
    if not there and asked is None:
        print("PyTorch or diffusers is not installed: no peer", file=sys.stderr)
    elif not there and asked != "none":
        parser.error(f"--peer {asked} needs PyTorch and diffusers: pip install .[bench]")
    return there and asked != "none"
