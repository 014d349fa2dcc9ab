"""Text that becomes known, step by step, on a terminal: each state of the sampler is drawn over the one before."""

import shutil
import sys
import textwrap
from collections.abc import Callable
from typing import Any, TextIO

import jax
import numpy as np


class Live:
    """Draws states of one text; where the output is no terminal, nothing."""

    def __init__(self, show: Callable[[np.ndarray], str], out: TextIO | None = None):
        self._show, self._out = show, out or sys.stderr
        self._lines = 0
        self.enabled = self._out.isatty()

    def record(self, x: jax.Array, s: jax.Array, state: Any) -> None:
        """For `jaxdiff.sample(record=...)`: the first sample of the batch, when it is there, not at the end."""
        jax.debug.callback(self.draw, x[0], s, ordered=True)

    def draw(self, tokens: np.ndarray, s: np.ndarray) -> None:
        columns, rows = shutil.get_terminal_size()
        lines = [
            part
            for line in self._show(np.asarray(tokens)).split("\n")
            for part in textwrap.wrap(line, columns - 1, drop_whitespace=False, replace_whitespace=False) or [""]
        ][: rows - 2]
        up = f"\x1b[{self._lines}F\x1b[J" if self._lines else ""
        self._out.write(f"{up}{chr(10).join(lines)}\nt = {float(s):.3f}\n")
        self._out.flush()
        self._lines = len(lines) + 1

    def clear(self) -> None:
        if self._lines:
            self._out.write(f"\x1b[{self._lines}F\x1b[J")
        self._lines = 0
