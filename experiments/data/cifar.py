"""CIFAR-10: 60,000 colour pictures of 32x32, from the published archive of plain bytes (nothing is unpickled).

A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009, https://www.cs.toronto.edu/~kriz/cifar.html.
Licence: none is stated; the page asks to cite the report.
"""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data import raw
from experiments.data.builder import Card, Example, from_arrays, load_card
from experiments.data.images import Images, Progress, silent
from experiments.errors import UserError

_CARD = Card(
    name="jaxdiff_cifar10",
    description="Colour pictures of 32x32 pixels: 50,000 to train, 10,000 to test.",
    homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
    licence="none stated; cite Krizhevsky 2009",
    shape=(32, 32, 3),
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
)
_ARCHIVE = "cifar-10-binary.tar.gz"
_FILES = {_ARCHIVE: "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"}
_MIRRORS = ("https://www.cs.toronto.edu/~kriz/",)
_PARTS = {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)}
_RECORD = 1 + 3 * 32 * 32  # a label, then the red, green and blue plane


@dataclass(frozen=True, kw_only=True)
class Cifar10:
    """CIFAR-10: 50,000 + 10,000 colour pictures of 32x32 pixels, 10 balanced classes."""

    raw_dir: str | None = None
    """Folder with the published cifar-10-binary.tar.gz; None to download it (170 MB). Not read again once prepared."""
    data_dir: str | None = None
    """Where prepared data lies; None for TFDS's default (TFDS_DATA_DIR, or ~/tensorflow_datasets)."""

    def load(self, progress: Progress = silent) -> Images:
        """Prepares on first use, in about a minute, and reads. Raises `UserError` if the archive cannot be had."""

        def splits(dl_manager: Any) -> dict[str, Iterator[Example]]:
            paths = raw.find(
                "cifar10",
                _FILES,
                raw_dir=self.raw_dir,
                mirrors=_MIRRORS,
                dl_manager=dl_manager,
                progress=progress,
            )
            arrays = read_archive(paths[_ARCHIVE])
            return {part: from_arrays(*pair) for part, pair in arrays.items()}

        return load_card(_CARD, splits, name="cifar10", data_dir=self.data_dir, progress=progress)


def read_archive(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The splits of the binary archive: uint8 (N, 32, 32, 3) and uint8 (N,). Nothing is written to disk.

    Raises:
        UserError: not a tar archive, a batch is missing, cut short, or has a label above 9.
    """
    try:
        with tarfile.open(path, "r:gz") as archive:
            members = {Path(m.name).name: m for m in archive if m.isfile() and m.name.endswith(".bin")}
            missing = [name for names in _PARTS.values() for name in names if name not in members]
            if missing:
                raise UserError(
                    f"{path} must hold {', '.join(missing)}; they are missing. Download the binary version."
                )
            read = {name: _read(archive, member) for name, member in members.items()}
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{path} must be a gzipped tar archive; reading it gave {error}. Download it again.") from error
    return {part: _unpack(path, b"".join(read[name] for name in names)) for part, names in _PARTS.items()}


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None  # a regular file
    with file:
        return file.read()


def _unpack(path: Path, data: bytes) -> tuple[np.ndarray, np.ndarray]:
    if not data or len(data) % _RECORD:
        raise UserError(
            f"{path}: batches must be records of {_RECORD} bytes; got {len(data)} bytes. Download it again."
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, _RECORD)
    labels = records[:, 0]
    if labels.max() > 9:
        raise UserError(f"{path}: labels must lie in 0..9; got {labels.max()}. It looks like CIFAR-100; use CIFAR-10.")
    planes = records[:, 1:].reshape(-1, 3, 32, 32)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels
