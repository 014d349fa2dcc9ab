"""Digits: 1,797 handwritten digits of 8x8, the copy that scikit-learn carries. No network.

Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits (test part), UCI Machine Learning
Repository, https://archive.ics.uci.edu/dataset/80, DOI 10.24432/C50P49. Licence: CC BY 4.0.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.data.builder import Card, Example, from_arrays, load_card
from experiments.data.images import Images, Progress, silent
from experiments.data.order import permutation

_CARD = Card(
    name="jaxdiff_digits",
    description="Handwritten digits of 8x8 pixels; counts 0..16 scaled to 0..255; a fifth of each class to test.",
    homepage="https://archive.ics.uci.edu/dataset/80",
    licence="CC BY 4.0",
    shape=(8, 8, 1),
    classes=tuple("0123456789"),
)
_SPLIT_SEED = 1797
_TEST_PARTS = 5


@dataclass(frozen=True, kw_only=True)
class Digits:
    """1,797 gray digits of 8x8 pixels, 10 classes.

    The published counts 0..16 become rint(255 / 16 * count). The test split is a fifth of each class, rounded, drawn
    with a fixed seed: 1,438 train, 359 test.
    """

    data_dir: str | None = None
    """Where prepared data lies; None for TFDS's default (TFDS_DATA_DIR, or ~/tensorflow_datasets)."""

    def load(self, progress: Progress = silent) -> Images:
        """Prepares on first use, in about a second, and reads."""
        return load_card(_CARD, _splits, name="digits", data_dir=self.data_dir, progress=progress)


def arrays() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The splits "train" and "test" as uint8 (N, 8, 8) and integers (N,), without TFDS."""
    from sklearn.datasets import load_digits

    counts, labels = load_digits(return_X_y=True)
    pixels = np.rint(np.asarray(counts) * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    labels = np.asarray(labels)
    test = np.zeros(len(labels), bool)
    for label in range(10):
        members = np.flatnonzero(labels == label)
        chosen = permutation(len(members), _SPLIT_SEED, label)[: round(len(members) / _TEST_PARTS)]
        test[members[chosen]] = True
    return {"train": (pixels[~test], labels[~test]), "test": (pixels[test], labels[test])}


def _splits(dl_manager: Any) -> dict[str, Iterator[Example]]:
    return {part: from_arrays(*pair) for part, pair in arrays().items()}
