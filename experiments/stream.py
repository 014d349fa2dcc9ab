"""Batches that can be looked at before they are taken, and continued where a run stopped."""

from collections.abc import Iterable
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
        if self._owns_state:
            self._batches.set_state(origin)

    def __next__(self) -> Batch:
        self._taken += 1
        return self._waiting.pop() if self._waiting else next(self._batches)

    def get_state(self) -> Any:
        return self._batches.get_state() if self._owns_state else self._taken

    def set_state(self, state: Any) -> None:
        if self._owns_state:
            self._batches.set_state(state)
        else:
            while self._taken < state:
                next(self)
