"""Ctrl-C and SIGTERM as a request to stop after the current step, so that nothing of a run is lost."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

RESUME = 75
"""Exit status of a run that SIGTERM stopped (a preemption): saved, to be started again with --resume. EX_TEMPFAIL."""


class Interrupted(Exception):
    """The run stopped on a signal, after saving a checkpoint. `status` is what the program exits with."""

    def __init__(self, message: str, status: int = 130):
        super().__init__(message)
        self.status = status


class StopRequest:
    """True once a signal has come."""

    def __init__(self) -> None:
        self._signal: int | None = None

    def __bool__(self) -> bool:
        return self._signal is not None

    @property
    def status(self) -> int:
        """130 for Ctrl-C, as shells have it; `RESUME` for SIGTERM."""
        return RESUME if self._signal == signal.SIGTERM else 130

    def set(self, number: int, _frame: object) -> None:
        if self._signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt  # a second Ctrl-C does not wait
        self._signal = number


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Collect SIGINT and SIGTERM while the block runs; only the main thread may, others never see a request."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request.set) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
