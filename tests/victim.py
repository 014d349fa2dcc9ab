"""A training in processes that can be killed, and what it has left when it is dead."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FLAGS = [
    *("--network", "mlp", "--network.width", "512", "--network.depth", "2", "--batch-size", "32", "--log-every", "5"),
    *("--checkpoint-every", "20", "--sampler.steps", "3", "--devices", "1"),
]
"""A checkpoint of 39 MB every 20 steps."""
MARKED = """
import pathlib, sys
from experiments import checkpoint, train
from experiments.cli import program
marks, restore = pathlib.Path(sys.argv.pop(1)), checkpoint.Checkpoints.restore
def marked(self, *arguments, **named):
    (marks / "begun").touch()
    result = restore(self, *arguments, **named)
    (marks / "ended").touch()
    return result
checkpoint.Checkpoints.restore = marked
program(train.main)
"""
OLD = "of an earlier process"


class Ended(Exception):
    """The training ended by itself: it refused to go on, or was faster than its killer."""


class Training:
    """The run in `out`, in one process after the other."""

    def __init__(self, out: Path, steps: int):
        self.out, self.steps = out, steps
        self.log, self._marks = out.with_suffix(".log"), out.with_suffix(".marks")

    @contextlib.contextmanager
    def process(self, *, marked: bool = False) -> Iterator[subprocess.Popen[bytes]]:
        """A new process; dead when the block is left."""
        shutil.rmtree(self._marks, ignore_errors=True)
        self._marks.mkdir(parents=True)
        for left in self.unfinished():
            (left / OLD).touch()
        program = ["-c", MARKED, self._marks] if marked else ["-m", "experiments.train"]
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "MPLBACKEND": "Agg",
            "JAX_COMPILATION_CACHE_DIR": str(self.out.parent / "cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        flags = [*FLAGS, "--steps", str(self.steps), "--out", self.out, "--resume"]
        command = [sys.executable, *program, "digits", *flags]
        log = self.log.open("w")
        with log, subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log) as process:
            try:
                yield process
            finally:
                process.kill()

    def wait(self, process: subprocess.Popen[bytes], done: Callable[[], Any], seconds: float = 180) -> None:
        """Look every millisecond until `done`, or until the time is over.

        Raises:
            Ended: the process ended first.
        """
        end = time.monotonic() + seconds
        while not done() and time.monotonic() < end:
            if process.poll() is not None:
                raise Ended(f"status {process.returncode}; left: {self.left()}; {self.log.read_text()[-500:]}")
            time.sleep(0.001)

    def saved(self) -> list[int]:
        return sorted(int(path.name) for path in self._checkpoints() if path.name.isdigit())

    def unfinished(self) -> list[Path]:
        """Checkpoints that the present process has begun (before it starts: all that are there)."""
        return [path for path in self._checkpoints() if "-tmp" in path.name and not (path / OLD).exists()]

    def restoring(self) -> bool:
        return (self._marks / "begun").exists() and not self.restored()

    def restored(self) -> bool:
        return (self._marks / "ended").exists()

    def left(self) -> list[str]:
        return sorted(path.name for path in self.out.iterdir()) if self.out.exists() else ["nothing"]

    def _checkpoints(self) -> list[Path]:
        folder = self.out / "checkpoints"
        return list(folder.iterdir()) if folder.exists() else []
