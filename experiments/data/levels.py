"""Pictures as levels of grey, for processes of tokens: 2 levels are the binary pictures of a threshold at one half."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.data.images import Split

_UNKNOWN = 127  # grey, for what is no level: a mask


def to_levels(pixels: np.ndarray, count: int) -> np.ndarray:
    """int32 levels 0..count - 1 of uint8 pixels, the nearest of them spread evenly over 0..255; any shape."""
    return np.rint(np.asarray(pixels, np.float32) * ((count - 1) / 255)).astype(np.int32)


def from_levels(levels: Any, count: int) -> np.ndarray:
    """uint8 pixels of levels; grey for a number outside 0..count - 1."""
    levels = np.asarray(levels)
    known = (levels >= 0) & (levels < count)
    return np.where(known, np.rint(np.clip(levels, 0, count - 1) * (255 / (count - 1))), _UNKNOWN).astype(np.uint8)


@dataclass(frozen=True, kw_only=True, eq=False)
class LevelPictures:
    """Pictures as int32 (b, H, W, C) of `count` levels, with their labels."""

    split: Split
    count: int

    def __len__(self) -> int:
        return len(self.split)

    def take(self, examples: np.ndarray, epochs: np.ndarray, seed: int) -> dict[str, np.ndarray]:
        pixels, labels = self.split[examples]
        batch = {"x0": to_levels(pixels, self.count)}
        return batch if labels is None else batch | {"cond": np.asarray(labels, np.int32)}
