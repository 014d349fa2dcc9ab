"""Random access to the examples of a TFDS split, decoded when indexed.

Pictures are decoded with PIL from the stored bytes (TFDS's own decoding is slower and asks for OpenCV).
"""

import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from experiments.data.images import Index
from experiments.data.pictures import to_array
from experiments.errors import UserError

_CHUNK = 1024  # records read at once: bounds the memory of encoded pictures


@dataclass(frozen=True, kw_only=True, eq=False)
class Records:
    """The examples `rows` of a TFDS split.

    Args:
        source: TFDS data source whose picture feature is left encoded.
        rows: the records that belong to this split.
        shape: (H, W, C) of every picture.
        crop: cut and scale pictures to `shape`; otherwise another size is an error.
        image_key, label_key: feature names; `label_key` None for an unlabeled split.
        classes: number of classes; a label outside 0..classes - 1 is an error.
        name: for messages.
    """

    source: Any
    rows: range
    shape: tuple[int, int, int]
    crop: bool
    image_key: str
    label_key: str | None
    classes: int
    name: str

    def __getitem__(self, index: Index) -> tuple[np.ndarray, Any]:
        """uint8 (..., H, W, C) and int32 (...) or None, for any index that NumPy takes on an axis."""
        rows = np.arange(self.rows.start, self.rows.stop)[index]
        pixels = np.empty((rows.size, *self.shape), np.uint8)
        labels = None if self.label_key is None else np.empty(rows.size, np.int32)
        flat = rows.ravel().tolist()
        for start in range(0, len(flat), _CHUNK):
            for i, example in enumerate(self.source.__getitems__(flat[start : start + _CHUNK]), start):
                pixels[i] = self._picture(example[self.image_key])
                if labels is not None:
                    labels[i] = self._label(example)
        pixels = pixels.reshape(*rows.shape, *self.shape)
        if labels is None:
            return pixels, None
        return pixels, labels.reshape(rows.shape) if rows.ndim else labels[0]

    def labels(self, index: Index) -> Any:
        """int32 (...): the labels alone, without decoding a picture."""
        rows = np.arange(self.rows.start, self.rows.stop)[index]
        flat = rows.ravel().tolist()
        found: list[int] = []
        for start in range(0, len(flat), _CHUNK):
            found += [self._label(example) for example in self.source.__getitems__(flat[start : start + _CHUNK])]
        labels = np.asarray(found, np.int32)
        return labels.reshape(rows.shape) if rows.ndim else labels[0]

    def _picture(self, encoded: bytes) -> np.ndarray:
        from PIL import Image

        height, width, channels = self.shape
        with Image.open(io.BytesIO(encoded)) as picture:
            array = to_array(picture, channels=channels, size=height if self.crop else None)
        if array.shape != self.shape:
            raise UserError(
                f"All pictures of {self.name} must have one size; got {array.shape[:2]} beside {(height, width)}. "
                "Pass --data.size to cut and scale them."
            )
        return array

    def _label(self, example: dict[str, Any]) -> int:
        label = int(example[self.label_key or ""])
        if not 0 <= label < self.classes:
            raise UserError(
                f"Labels of {self.name} must lie in 0..{self.classes - 1}; got {label} (-1 usually means that the "
                "split has none). Choose a labeled split, or --data.label-key None."
            )
        return label


@dataclass(frozen=True, eq=False)
class RecordPixels:
    """The pictures of `Records` as if they were an array, uint8 (N, H, W, C)."""

    records: Records
    shape: tuple[int, int, int, int]
    dtype: np.dtype = field(default_factory=lambda: np.dtype(np.uint8))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Index) -> np.ndarray:
        return self.records[index][0]


@dataclass(frozen=True, eq=False)
class RecordLabels:
    """The labels of `Records` as if they were an array, int32 (N,)."""

    records: Records
    shape: tuple[int]
    dtype: np.dtype = field(default_factory=lambda: np.dtype(np.int32))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Index) -> Any:
        return self.records.labels(index)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.asarray(self[:], dtype)
