"""What every data source returns, and the one place where pixels become numbers in [-1, 1] and back.

`Images` holds a training and a test `Split`. A small split lies decoded in memory; a large one is read from its
records when indexed. Both answer to the same indexing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np

Index: TypeAlias = Any  # whatever NumPy takes on the first axis: an int, a slice, a sequence of ints, a mask
Progress: TypeAlias = Callable[[str], None]


def silent(message: str) -> None:
    """The default `progress`: says nothing."""


class Pixels(Protocol):
    """uint8 (N, H, W, C): an array, or records that are decoded when indexed."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: Index, /) -> np.ndarray: ...


class Labels(Protocol):
    """int32 (N,): an array, or records that are read when indexed; `numpy.asarray` reads them all."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: Index, /) -> Any: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """N examples with random access; `split[i]` is `(image, label)`, with a leading axis where `i` has one.

    Args:
        images: uint8 (N, H, W, C), 0 black to 255 white.
        labels: int32 (N,), positions in `Images.classes`; None for an unlabeled set.
        read: gives pictures and labels for an index in one reading, where two would cost twice; None for arrays.
    """

    images: Pixels
    labels: Labels | None
    read: Callable[[Index], tuple[np.ndarray, Any]] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Index) -> tuple[np.ndarray, Any]:
        if self.read is not None:
            return self.read(index)
        return self.images[index], None if self.labels is None else self.labels[index]


@dataclass(frozen=True, kw_only=True, eq=False)
class Images:
    """A data set of pictures of one shape.

    Args:
        name: short name, for logs and run directories.
        train, test: the two splits; they share no example.
        shape: (H, W, C) in pixels and channels.
        classes: the name of each label; empty for an unlabeled set.
        checksum: sha256 (64 hex digits) of the decoded training pixels and labels; of a split that is too large for
            memory, "records:" and the sha256 of its record files' names, sizes and lengths.
        provenance: source, licence, and the TFDS name and version that was read.
    """

    name: str
    train: Split
    test: Split
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    checksum: str
    provenance: str


class Source(Protocol):
    """A description of data that a recipe holds; `load` prepares it on first use and reads it."""

    def load(self, progress: Progress = silent) -> Images: ...


def from_pixels(pixels: np.ndarray) -> np.ndarray:
    """uint8 0..255 to float32 in [-1, 1], x / 127.5 - 1; any shape.

    Raises:
        ValueError: for another dtype: a picture in [0, 1] or [-1, 1] would pass as an almost black one.
    """
    pixels = np.asarray(pixels)
    if pixels.dtype != np.uint8:
        raise ValueError(f"from_pixels needs uint8 pixels in 0..255; got {pixels.dtype}. Convert them first.")
    x = pixels.astype(np.float32)
    x /= np.float32(127.5)
    x -= np.float32(1)
    return x


def to_pixels(x: Any) -> np.ndarray:
    """Samples in [-1, 1] to uint8 0..255: rounded to nearest, and clipped; any shape. Inverts `from_pixels` exactly.

    Clipping is on purpose and happens nowhere else: a sampler may leave [-1, 1] a little, a picture file cannot.

    Raises:
        ValueError: for NaN, which no pixel value stands for.
    """
    x = np.asarray(x, np.float32)
    if np.isnan(x).any():
        raise ValueError("to_pixels needs numbers; got NaN. Look at the sampler or the weights that made them.")
    return np.clip(np.rint((x + 1) * np.float32(127.5)), 0, 255).astype(np.uint8)
