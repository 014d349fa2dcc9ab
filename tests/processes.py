"""Trainings in several processes with CPU devices of their own, joined over loopback; none outlives its test."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

MINUTES = 10  # until a test that waits gives up; the machine may be busy


class Processes:
    """`python -m experiments.train digits FLAGS` in two processes; what process i says lies in `logs[i]`."""

    def __init__(self, folder: Path, *flags: str, devices: int = 4, own: Callable[[int], list[str]] = lambda i: []):
        folder.mkdir(parents=True, exist_ok=True)
        self.logs = [folder / f"{i}.log" for i in (0, 1)]
        address, self.running = f"127.0.0.1:{free_port()}", []
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": str(devices),
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # only process 0 finds its programs in the compilation cache
        }
        for i, log in enumerate(self.logs):
            ours = {"coordinator": address, "processes": 2, "process": i}
            join = [item for name, value in ours.items() for item in (f"--distributed.{name}", str(value))]
            command = [sys.executable, "-m", "experiments.train", "digits", *flags, *own(i), *join]
            with log.open("w") as file:
                self.running.append(
                    subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)
                )

    def said(self, i: int) -> str:
        return self.logs[i].read_text()

    def wait(self) -> list[int]:
        """The exit statuses."""
        self.until(lambda: all(process.poll() is not None for process in self.running), ending=True)
        return [process.returncode for process in self.running]

    def until(self, reached: Callable[[], bool], *, ending: bool = False) -> None:
        """Wait until `reached`; an error when it takes too long, or a process ends although it should not."""
        deadline = time.monotonic() + 60 * MINUTES
        while not reached():
            ended = not ending and any(process.poll() is not None for process in self.running)
            if ended or time.monotonic() > deadline:
                raise AssertionError("\n".join(f"process {i}: {self.said(i)[-3000:]}" for i in range(len(self.logs))))
            time.sleep(0.01)

    def kill(self) -> None:
        for process in self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextlib.contextmanager
def started(folder: Path, *flags: str, **options) -> Iterator[Processes]:
    processes = Processes(folder, *flags, **options)
    try:
        yield processes
    finally:
        processes.kill()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
