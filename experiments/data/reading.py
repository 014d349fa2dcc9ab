"""A prepared TFDS data set to `Images`: decoded into memory where it fits, otherwise read when indexed.

Decoding 28x28 PNG gives about 10,000 pictures a second on one core, so a decoded split is also kept as one .npz file
next to its records, named by all that it was made from. It is a cache: delete it at any time.
"""

import hashlib
import io
import os
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data.images import Images, Progress, Split, silent
from experiments.data.records import RecordLabels, RecordPixels, Records
from experiments.errors import UserError

IN_MEMORY_BYTES = 2 * 1024**3
"""A split of more decoded bytes than this is read from its records when indexed."""

_CACHE_FORMAT = 1  # raise it when the same records are to be decoded in another way
_SLICE = 8192  # pictures between two words of progress


def load(
    builder: Any,
    *,
    name: str,
    provenance: str,
    parts: Sequence[tuple[str, range]],
    image_key: str = "image",
    label_key: str | None = "label",
    size: int | None = None,
    limit: int | None = None,
    progress: Progress = silent,
) -> Images:
    """Reads a prepared builder.

    Args:
        builder: prepared in array_record form.
        name, provenance: for `Images`.
        parts: (TFDS split, its rows) of the training and of the test split.
        image_key, label_key: names of the features, an `Image` of uint8 and a `ClassLabel`; `label_key` None to read
            no labels.
        size: cut and scale pictures to this many pixels a side; None where all have one size.
        limit: bytes of decoded pixels up to which a split is held in memory; None for `IN_MEMORY_BYTES`.
        progress: told what is being decoded.

    Raises:
        UserError: pictures of several sizes without `size`, labels out of range, an empty split.
    """
    import tensorflow_datasets as tfds

    features = builder.info.features
    skipped = {key: tfds.decode.SkipDecoding() for key, f in features.items() if type(f) is tfds.features.Image}
    skipped[image_key] = tfds.decode.SkipDecoding()
    classes = () if label_key is None else tuple(features[label_key].names)
    shape: tuple[int, int, int] | None = None
    splits: list[Split] = []
    for part, rows in parts:
        if not len(rows):
            raise UserError(f"Split {part!r} of {name} needs at least one picture; it has none. Choose another split.")
        source = builder.as_data_source(split=part, decoders=skipped)
        shape = shape or _shape(features[image_key].shape, size, source[rows.start][image_key])
        records = Records(
            source=source,
            rows=rows,
            shape=shape,
            crop=size is not None,
            image_key=image_key,
            label_key=label_key,
            classes=len(classes),
            name=name,
        )
        if len(rows) * int(np.prod(shape)) > (IN_MEMORY_BYTES if limit is None else limit):
            splits.append(_lazy(records))
        else:
            key = _digest(_CACHE_FORMAT, _files(builder, part, times=True), rows, shape, size, image_key, label_key)
            cache = Path(builder.data_dir) / f"decoded-{key[:24]}.npz"
            splits.append(_decoded(records, cache, progress))
    assert shape is not None
    train, test = splits
    return Images(
        name=name,
        train=train,
        test=test,
        shape=shape,
        classes=classes,
        checksum=_checksum(train, builder, parts[0]),
        provenance=provenance,
    )


def _shape(feature: Sequence[int | None], size: int | None, first: bytes) -> tuple[int, int, int]:
    from PIL import Image

    channels = 1 if feature[-1] == 1 else 3
    if size is not None:
        return size, size, channels
    with Image.open(io.BytesIO(first)) as picture:
        return picture.height, picture.width, channels


def _lazy(records: Records) -> Split:
    count = len(records.rows)
    return Split(
        images=RecordPixels(records, (count, *records.shape)),
        labels=None if records.label_key is None else RecordLabels(records, (count,)),
        read=records.__getitem__,
    )


def _decoded(records: Records, cache: Path, progress: Progress) -> Split:
    try:
        with np.load(cache, allow_pickle=False) as stored:  # its zip container has a CRC: damage raises
            return Split(images=stored["images"], labels=stored.get("labels"))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass
    count = len(records.rows)
    images = np.empty((count, *records.shape), np.uint8)
    labels: np.ndarray | None = None if records.label_key is None else np.empty(count, np.int32)
    for start in range(0, count, _SLICE):
        part = slice(start, min(start + _SLICE, count))
        progress(f"{records.name}: decoding picture {start:,} of {count:,} (once)")
        images[part], found = records[part]
        if labels is not None:
            labels[part] = found
    _store(cache, {"images": images} | ({} if labels is None else {"labels": labels}))
    return Split(images=images, labels=labels)


def _store(cache: Path, arrays: dict[str, np.ndarray]) -> None:
    """Whole or not at all; a data directory that cannot be written to costs decoding again, nothing else."""
    try:
        handle, temporary = tempfile.mkstemp(dir=cache.parent, suffix=".tmp")
    except OSError:
        return
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        os.replace(temporary, cache)
    except OSError:
        Path(temporary).unlink(missing_ok=True)


def _files(builder: Any, part: str, *, times: bool) -> list[tuple[Any, ...]]:
    info = builder.info.splits[part]
    found = []
    for path in info.filepaths:
        stat = path.stat()
        found.append((path.name, int(stat.length)) + ((int(stat.mtime),) if times else ()))
    return [(builder.info.full_name, part, tuple(info.shard_lengths)), *found]


def _digest(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _checksum(train: Split, builder: Any, part: tuple[str, range]) -> str:
    if train.read is not None:
        return "records:" + _digest(_files(builder, part[0], times=False), part[1])
    digest = hashlib.sha256(repr(train.images.shape).encode())
    digest.update(np.ascontiguousarray(train.images[:]).data)
    if train.labels is not None:
        digest.update(np.ascontiguousarray(train.labels[:]).data)
    return digest.hexdigest()
