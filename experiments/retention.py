"""Which checkpoints stay: the newest, the one of the lowest loss, and those of every n-th step."""

import json
import math
from collections.abc import Sequence
from typing import Any

from etils import epath


class Retention:
    """A preservation policy of Orbax. Losses are added to `losses` as checkpoints are saved, and read from those of an
    earlier start of the run.

    Args:
        root: the directory of the checkpoints.
        keep: how many of the newest stay; None for all.
        every: those of steps that it divides stay as well.
    """

    def __init__(self, root: epath.Path, keep: int | None, every: int | None):
        self._root, self._keep, self._every = root, keep, every
        self.losses: dict[int, float] = {}

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        steps = sorted(checkpoint.step for checkpoint in checkpoints)
        stay = set(steps if self._keep is None else steps[-self._keep :])
        best = min(steps, key=self._loss, default=None)
        if best is not None and self._loss(best) < math.inf:
            stay.add(best)
        if self._every is not None:
            stay.update(step for step in steps if step % self._every == 0)
        return [checkpoint.step in stay for checkpoint in checkpoints]

    def _loss(self, step: int) -> float:
        """Infinite where it is not a number or cannot be read."""
        if step not in self.losses:
            try:
                loss = json.loads((self._root / str(step) / "loss" / "metadata").read_text())["loss"]
            except (OSError, ValueError, LookupError, TypeError):
                loss = None
            self.losses[step] = math.inf if loss is None else float(loss)
        return self.losses[step]
