"""A JAX trace of a few training steps."""

from typing import Any

import jax
from etils import epath


class Profiler:
    """Traces `steps` steps from `first` on into `out`; does nothing where `out` is None."""

    def __init__(self, out: epath.Path | None, first: int, steps: int):
        self._out, self._first, self._last = out, first, first + steps - 1
        self._running = False

    def before(self, step: int) -> None:
        if self._out is not None and step == self._first:
            jax.profiler.start_trace(str(self._out))
            self._running = True

    def after(self, step: int, result: Any) -> None:
        if self._running and step == self._last:
            jax.block_until_ready(result)
            jax.profiler.stop_trace()
            self._running = False
