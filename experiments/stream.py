"""Batches that can be looked at before they are taken, continued where a run stopped, and waited for in the open."""

import sys
import threading
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any

Batch = dict[str, Any]


class Stream:
    """An iterator of batches with a position that goes into checkpoints.

    Args:
        batches: with `get_state` and `set_state` (Grain's iterators have them) the position is its own state; any other
            iterable must start from the beginning again when a run resumes, and is then read up to where it stood.
    """

    def __init__(self, batches: Iterable[Batch]):
        self._batches: Any = iter(batches)
        self._owns_state = hasattr(self._batches, "get_state") and hasattr(self._batches, "set_state")
        origin = self._batches.get_state() if self._owns_state else None
        self.first = next(self._batches)
        self._waiting = [] if self._owns_state else [self.first]
        self._taken = 0
        self.waited = 0.0
        """Seconds spent waiting for batches."""
        self.waiting_since: float | None = None
        """When the batch that is being waited for was asked for, in seconds of `time.perf_counter`."""
        if self._owns_state:
            self._batches.set_state(origin)

    def __next__(self) -> Batch:
        began = self.waiting_since = time.perf_counter()
        batch = self._waiting.pop() if self._waiting else next(self._batches)
        self._taken += 1
        self.waiting_since = None
        self.waited += time.perf_counter() - began
        return batch

    def get_state(self) -> Any:
        return self._batches.get_state() if self._owns_state else self._taken

    def set_state(self, state: Any) -> None:
        if self._owns_state:
            self._batches.set_state(state)
        else:
            while self._taken < state:
                next(self)


class Watch:
    """Says on stderr when a batch does not come, while the block runs: after `seconds`, twice that, and so on."""

    def __init__(self, stream: Stream, seconds: float = 30.0):
        self._stream, self._seconds = stream, seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        limit, asked = self._seconds, None
        while not self._over.wait(self._seconds / 10):
            since = self._stream.waiting_since
            if since is None:
                continue
            if since != asked:
                limit, asked = self._seconds, since
            if time.perf_counter() - since > limit:
                print(
                    f"no batch for {time.perf_counter() - since:.0f} s: the data are stalled; look at their disk or "
                    "network, Ctrl-C twice stops the run",
                    file=sys.stderr,
                    flush=True,
                )
                limit *= 2
