"""Texts prepared once in TFDS's array_record form, as pictures are: splits of chunks, read without TensorFlow."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from experiments.data.builder import expand, quiet
from experiments.data.images import Progress
from experiments.errors import UserError

SPLITS = ("train", "validation", "test")

_CHUNK = 1 << 20  # characters of a record


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a text is.

    Args:
        name: TFDS name, snake case; also the folder under the data directory.
        version: to be raised when the same source is to be read in another way.
        description, homepage, licence: for people.
    """

    name: str
    description: str
    homepage: str
    licence: str
    version: str = "1.0.0"


def load(
    card: Card, read: Callable[[Any], Mapping[str, str]], *, data_dir: str | None, progress: Progress
) -> tuple[dict[str, str], str]:
    """The text of each split, and its provenance; prepares them first unless they already lie in `data_dir`.

    Args:
        card: what the text is.
        read: called only when there is something to prepare; the text of each split, given a
            `tfds.download.DownloadManager`.
        data_dir: TFDS data directory; None for TFDS's own (`TFDS_DATA_DIR`, or `~/tensorflow_datasets`).
        progress: told what is being prepared.
    """
    with quiet():
        builder = _builder(card, read, data_dir)
        if not builder.is_prepared():
            progress(f"{card.name}: preparing {builder.data_dir} (once)")
            try:
                builder.download_and_prepare()
            except OSError:
                # Another process prepared the same text meanwhile, and the last rename found its folder there.
                builder = _builder(card, read, data_dir)
                if not builder.is_prepared():
                    raise
        return _read(builder), f"{card.homepage} ({card.licence}), prepared as TFDS {builder.info.full_name}"


def found(name: str, *, data_dir: str | None) -> tuple[dict[str, str], str] | None:
    """The same of a text that TFDS's own builder prepared in array_record form; None where there is none."""
    with quiet():
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core import read_only_builder

        try:
            builder = read_only_builder.builder_from_files(name, data_dir=expand(data_dir), file_format="array_record")
        except (tfds.core.DatasetNotFoundError, ValueError):  # ValueError: it lies there in another format
            return None
        return _read(builder), f"{builder.info.homepage}, read from TFDS {builder.info.full_name}"


def _read(builder: Any) -> dict[str, str]:
    texts = {}
    for split in SPLITS:
        if split not in builder.info.splits:
            raise UserError(
                f"{builder.info.full_name} needs the splits {', '.join(SPLITS)}; it has "
                f"{', '.join(builder.info.splits)}. Delete {builder.data_dir} and prepare it again."
            )
        chunks = [record["text"] for record in builder.as_data_source(split=split)]
        texts[split] = b"".join(c if isinstance(c, bytes) else c.encode() for c in chunks).decode()
    return texts


def _builder(card: Card, read: Callable[[Any], Mapping[str, str]], data_dir: str | None) -> Any:
    import tensorflow_datasets as tfds

    # Made anew for each card, so that one class serves all texts; unregistered, so that TFDS's names stay its own.
    class Text(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = card.name
        VERSION = tfds.core.Version(card.version)

        def _info(self) -> Any:
            return tfds.core.DatasetInfo(
                builder=self,
                description=card.description,
                homepage=card.homepage,
                license=card.licence,
                features=tfds.features.FeaturesDict({"text": tfds.features.Text()}),
                disable_shuffling=True,  # a text keeps its order
            )

        def _split_generators(self, dl_manager: Any) -> Any:
            return {split: self._generate_examples(text) for split, text in read(dl_manager).items()}

        def _generate_examples(self, text: str) -> Iterator[tuple[int, dict[str, str]]]:
            for start in range(0, len(text), _CHUNK):
                yield start, {"text": text[start : start + _CHUNK]}

        # TFDS prints these two to standard output; `progress` says the same.
        def _log_download_bytes(self) -> None:
            pass

        def _log_download_done(self) -> None:
            pass

    return Text(data_dir=expand(data_dir), file_format="array_record")
