"""Ctrl-C and SIGTERM as a request to stop after the current step, so that nothing of a run is lost."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Interrupted(Exception):
    """The run stopped on a signal, after saving a checkpoint."""


class StopRequest:
    """True once a signal has come."""

    def __init__(self) -> None:
        self._signal: int | None = None

    def __bool__(self) -> bool:
        return self._signal is not None

    def set(self, number: int, _frame: object) -> None:
        if self._signal is not None:
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
