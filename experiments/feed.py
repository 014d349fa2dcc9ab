"""What a run is fed: the description of its data, and its training examples for `experiments.data.batches`."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from experiments.data import Images
from experiments.data.levels import LevelPictures
from experiments.model import DataInfo
from experiments.recipe import Recipe
from experiments.text import Task, Texts, Windows
from experiments.text.bits import bits_of, to_bits


@dataclass(frozen=True, kw_only=True, eq=False)
class BitWindows:
    """Windows of text as analog bits, float32 (b, L, bits)."""

    windows: Windows
    size: int

    def __len__(self) -> int:
        return len(self.windows)

    def take(self, examples: np.ndarray, epochs: np.ndarray, seed: int) -> dict[str, np.ndarray]:
        return {"x0": to_bits(self.windows.take(examples, epochs, seed)["x0"], self.size)}


def feed(recipe: Recipe, data: Images | Texts | Task) -> tuple[DataInfo, Any]:
    """`(info, examples)` of loaded data: a split of pictures, the windows of a text, or a task's training part."""
    if isinstance(data, Images):
        info = DataInfo.of(data)
        if not recipe.levels:
            return info, data.train
        return replace(info, tokens=recipe.levels), LevelPictures(split=data.train, count=recipe.levels)
    if isinstance(data, Task):
        info = DataInfo(
            shape=(data.length,),
            tokens=data.tokenizer.size,
            tokenizer=data.tokenizer,
            features=data.features,
            prompt_length=data.prompt_length,
            name=data.name,
            checksum=data.checksum,
        )
        return info, data.train
    source: Any = recipe.data
    size = data.tokenizer.size
    windows = Windows(tokens=data.train, length=source.length)
    about = {"name": data.name, "checksum": data.checksum, "tokenizer": data.tokenizer}
    if source.bits:
        shape = (source.length, bits_of(size))
        return DataInfo(shape=shape, **about), BitWindows(windows=windows, size=size)
    return DataInfo(shape=(source.length,), tokens=size, **about), windows
