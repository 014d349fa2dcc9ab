"""MNIST and Fashion-MNIST: 70,000 gray pictures of 28x28 each, from the four IDX files as published.

MNIST: Y. LeCun, C. Cortes, C. Burges, http://yann.lecun.com/exdb/mnist/; licence CC BY-SA 3.0.
Fashion-MNIST: H. Xiao, K. Rasul, R. Vollgraf, arXiv 1708.07747, https://github.com/zalandoresearch/fashion-mnist;
licence MIT.
"""

import gzip
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data import raw
from experiments.data.builder import Card, Example, from_arrays, load_card
from experiments.data.images import Images, Progress, silent
from experiments.errors import UserError

_TRAIN = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz")
_TEST = ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")

_MNIST = Card(
    name="jaxdiff_mnist",
    description="Handwritten digits of 28x28 pixels: 60,000 to train, 10,000 to test.",
    homepage="http://yann.lecun.com/exdb/mnist/",
    licence="CC BY-SA 3.0",
    shape=(28, 28, 1),
    classes=tuple("0123456789"),
)
_MNIST_FILES = {
    _TRAIN[0]: "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    _TRAIN[1]: "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    _TEST[0]: "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    _TEST[1]: "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
_MNIST_MIRRORS = (
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
)

_FASHION = Card(
    name="jaxdiff_fashion_mnist",
    description="Zalando's articles of clothing, 28x28 pixels: 60,000 to train, 10,000 to test.",
    homepage="https://github.com/zalandoresearch/fashion-mnist",
    licence="MIT",
    shape=(28, 28, 1),
    classes=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
)
_FASHION_FILES = {
    _TRAIN[0]: "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    _TRAIN[1]: "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    _TEST[0]: "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    _TEST[1]: "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
}
_FASHION_MIRRORS = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
)


@dataclass(frozen=True, kw_only=True)
class Mnist:
    """MNIST: 60,000 + 10,000 gray digits of 28x28 pixels, 10 classes."""

    raw_dir: str | None = None
    """Folder with the four published .gz files; None to download them. Not read again once prepared."""
    data_dir: str | None = None
    """Where prepared data lies; None for TFDS's default (TFDS_DATA_DIR, or ~/tensorflow_datasets)."""

    def load(self, progress: Progress = silent) -> Images:
        """Prepares on first use, in under a minute, and reads. Raises `UserError` if the files cannot be had."""
        return _load(_MNIST, "mnist", _MNIST_FILES, _MNIST_MIRRORS, self.raw_dir, self.data_dir, progress)


@dataclass(frozen=True, kw_only=True)
class FashionMnist:
    """Fashion-MNIST: 60,000 + 10,000 gray articles of clothing of 28x28 pixels, 10 balanced classes."""

    raw_dir: str | None = None
    """Folder with the four published .gz files; None to download them. Not read again once prepared."""
    data_dir: str | None = None
    """Where prepared data lies; None for TFDS's default (TFDS_DATA_DIR, or ~/tensorflow_datasets)."""

    def load(self, progress: Progress = silent) -> Images:
        """Prepares on first use, in under a minute, and reads. Raises `UserError` if the files cannot be had."""
        return _load(_FASHION, "fashion_mnist", _FASHION_FILES, _FASHION_MIRRORS, self.raw_dir, self.data_dir, progress)


def read_idx(path: Path) -> np.ndarray:
    """A gzipped IDX file of unsigned bytes to uint8 of the shape it declares.

    Raises:
        UserError: not an IDX file of bytes, or shorter or longer than it says.
    """
    try:
        data = gzip.decompress(path.read_bytes())
    except (gzip.BadGzipFile, EOFError) as error:
        raise UserError(f"{path} must be a gzipped IDX file; reading it gave {error}. Download it again.") from error
    if len(data) < 4 or data[:3] != b"\x00\x00\x08" or len(data) < 4 + 4 * data[3]:
        raise UserError(
            f"{path} must be an IDX file of bytes (it begins 00 00 08); got {data[:4].hex(' ') or 'nothing'}."
        )
    shape = tuple(np.frombuffer(data, ">u4", data[3], 4).tolist())
    offset = 4 + 4 * len(shape)
    if len(data) - offset != int(np.prod(shape)):
        raise UserError(f"{path} declares shape {shape} and holds {len(data) - offset} bytes. Download it again.")
    return np.frombuffer(data, np.uint8, offset=offset).reshape(shape)


def _load(
    card: Card,
    name: str,
    files: Mapping[str, str],
    mirrors: tuple[str, ...],
    raw_dir: str | None,
    data_dir: str | None,
    progress: Progress,
) -> Images:
    def splits(dl_manager: Any) -> dict[str, Iterator[Example]]:
        paths = raw.find(name, files, raw_dir=raw_dir, mirrors=mirrors, dl_manager=dl_manager, progress=progress)
        parts = {"train": _TRAIN, "test": _TEST}
        return {part: from_arrays(*(read_idx(paths[file]) for file in pair)) for part, pair in parts.items()}

    return load_card(card, splits, name=name, data_dir=data_dir, progress=progress)
