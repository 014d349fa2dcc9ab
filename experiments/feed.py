"""What a run is fed: the description of its data, and its training examples for `experiments.data.batches`."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from experiments.conditions import read_embeddings
from experiments.data import Images, Split, from_pixels
from experiments.data.levels import LevelPictures
from experiments.info import DataInfo
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


@dataclass(frozen=True, kw_only=True, eq=False)
class Embedded:
    """Pictures float32 (b, H, W, C) with their labels and a row of numbers for each."""

    split: Split
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.split)

    def take(self, examples: np.ndarray, epochs: np.ndarray, seed: int) -> dict[str, Any]:
        pixels, labels = self.split[examples]
        cond = {"embedding" if self.rows.ndim == 2 else "context": self.rows[examples]}
        cond |= {} if labels is None else {"label": np.asarray(labels, np.int32)}
        return {"x0": from_pixels(pixels), "cond": cond}


def feed(recipe: Recipe, data: Images | Texts | Task) -> tuple[DataInfo, Any]:
    """`(info, examples)` of loaded data: a split of pictures, the windows of a text, or a task's training part."""
    if isinstance(data, Images):
        info = DataInfo.of(data)
        if path := recipe.conditions.embeddings:
            rows = read_embeddings(path, len(data.train))
            return replace(info, embedding=rows.shape[1:]), Embedded(split=data.train, rows=rows)
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
