"""The one TFDS builder of ours: any source that yields pictures and labels, prepared once in array_record form.

A source is a `Card` (what the set is) and a function that yields its examples. Preparing needs no TensorFlow, because
pictures are handed over as PIL images; `tfds.builder(card.name, data_dir=...)` reads the result anywhere.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from experiments.data.images import Images, Progress
from experiments.data.reading import load
from experiments.errors import UserError

Example: TypeAlias = tuple[Any, int | None]  # a PIL image of the card's shape, and its label
Splits: TypeAlias = Callable[[Any], Mapping[str, Iterable[Example]]]  # from a tfds.download.DownloadManager

_REPORT_EVERY = 10_000


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a data set is.

    Args:
        name: TFDS name, snake case; also the folder under the data directory.
        version: to be raised when the same source is to be read in another way.
        description, homepage, licence: for people.
        shape: (H, W, C).
        classes: the name of each label; empty for an unlabeled set.
    """

    name: str
    description: str
    homepage: str
    licence: str
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    version: str = "1.0.0"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """TFDS logs and draws bars; the terminal belongs to the command line. Errors still pass."""
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError(
            f"Data sets need TensorFlow Datasets; importing it gave: {error}. Run pip install -e '.[experiments]'."
        ) from error
    tfds.disable_progress_bar()
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def expand(data_dir: str | None) -> str | None:
    """`~` spelled out: TFDS expands it in some places only, and makes a folder of that name in others."""
    return None if data_dir is None else os.path.expanduser(data_dir)


def prepare(card: Card, splits: Splits, *, data_dir: str | None, progress: Progress) -> Any:
    """The prepared `tfds.core.DatasetBuilder`; prepares it first unless it already lies in `data_dir`.

    Args:
        card: what the set is.
        splits: called only when there is something to prepare; gives the examples of each split, in order.
        data_dir: TFDS data directory; None for TFDS's own (`TFDS_DATA_DIR`, or `~/tensorflow_datasets`).
        progress: told what is being prepared.

    Raises:
        UserError: whatever `splits` raises passes unchanged; nothing half prepared is left behind.
    """
    with quiet():
        builder = _builder(card, splits, data_dir, progress)
        if builder.is_prepared():
            return builder
        progress(f"{card.name}: preparing {builder.data_dir} (once)")
        try:
            builder.download_and_prepare()
        except OSError:
            # Another process prepared the same set meanwhile, and the last rename found its folder there.
            builder = _builder(card, splits, data_dir, progress)
            if not builder.is_prepared():
                raise
    return builder


def load_card(card: Card, splits: Splits, *, name: str, data_dir: str | None, progress: Progress) -> Images:
    """Prepares on first use and reads the splits "train" and "test". Arguments as for `prepare`; `name` for logs."""
    builder = prepare(card, splits, data_dir=data_dir, progress=progress)
    with quiet():
        return load(
            builder,
            name=name,
            provenance=f"{card.homepage} ({card.licence}), prepared as TFDS {builder.info.full_name}",
            parts=[(part, range(builder.info.splits[part].num_examples)) for part in ("train", "test")],
            label_key="label" if card.classes else None,
            progress=progress,
        )


def from_arrays(pixels: np.ndarray, labels: np.ndarray) -> Iterator[Example]:
    """Examples from uint8 (N, H, W), gray, or (N, H, W, 3), and integers (N,)."""
    from PIL import Image

    for picture, label in zip(pixels, labels, strict=True):
        yield Image.fromarray(picture), int(label)


def _builder(card: Card, splits: Splits, data_dir: str | None, progress: Progress) -> Any:
    import tensorflow_datasets as tfds

    features: dict[str, Any] = {"image": tfds.features.Image(shape=card.shape)}
    if card.classes:
        features["label"] = tfds.features.ClassLabel(names=list(card.classes))

    # Made anew for each card, so that one class serves all sets; unregistered, so that `mnist` stays TFDS's own.
    class Pictures(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = card.name
        VERSION = tfds.core.Version(card.version)

        def _info(self) -> Any:
            return tfds.core.DatasetInfo(
                builder=self,
                description=card.description,
                homepage=card.homepage,
                license=card.licence,
                features=tfds.features.FeaturesDict(features),
                disable_shuffling=True,  # keeps the published order; `batches` shuffles
            )

        def _split_generators(self, dl_manager: Any) -> Any:
            return {split: self._generate_examples(split, found) for split, found in splits(dl_manager).items()}

        def _generate_examples(self, split: str, found: Iterable[Example]) -> Iterator[tuple[int, dict[str, Any]]]:
            for i, (picture, label) in enumerate(found):
                if i and i % _REPORT_EVERY == 0:
                    progress(f"{card.name}: {i:,} {split} pictures prepared")
                yield i, {"image": picture} | ({} if label is None else {"label": label})

        # TFDS prints these two to standard output; `progress` says the same.
        def _log_download_bytes(self) -> None:
            pass

        def _log_download_done(self) -> None:
            pass

    return Pictures(data_dir=expand(data_dir), file_format="array_record")
