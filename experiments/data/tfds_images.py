"""Any image data set of TensorFlow Datasets, by name, once it is prepared in array_record form.

Catalogue: https://www.tensorflow.org/datasets/catalog/overview; sources and licences are those of each data set. Most
builders of the catalogue need TensorFlow to be prepared, none needs it to be read.
"""

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data.builder import expand, quiet
from experiments.data.images import Images, Progress, silent
from experiments.data.reading import load
from experiments.errors import UserError

_TEST_SHARE = 0.1


@dataclass(frozen=True, kw_only=True)
class Tfds:
    """A TFDS image data set that lies prepared in `data_dir`, gray or colour, with or without labels.

    Where the set has no split "test" and no other is named, the last tenth of the training split (at least one
    picture) is held out; TFDS stores most sets in a shuffled order.
    """

    name: str
    """TFDS name: data_set, data_set/config or data_set/config:1.2.3."""
    size: int | None = None
    """Pixels a side: the short side is scaled to this, antialiased, and the middle cut out; None to keep the size."""
    image_key: str = "image"
    """Name of the picture feature."""
    label_key: str | None = "label"
    """Name of the class feature; None to read no labels."""
    train_split: str = "train"
    """Name of the training split."""
    test_split: str = "test"
    """Name of the test split."""
    data_dir: str | None = None
    """Where prepared data lies; None for TFDS's default (TFDS_DATA_DIR, or ~/tensorflow_datasets)."""

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise UserError(f"size counts pixels a side; got {self.size}. Pass, for example, --data.size 32.")

    def load(self, progress: Progress = silent) -> Images:
        """Reads the prepared set; prepares nothing.

        Raises:
            UserError: an unknown name, a set that is not prepared or in another file format, a missing split or
                feature, pictures of several sizes without `size`.
        """
        with quiet():
            builder = self._builder()
            self._check_features(builder.info.features)
            homepage = builder.info.homepage or "no homepage"
            return load(
                builder,
                name=builder.name,
                provenance=f"{homepage}, read from TFDS {builder.info.full_name}",
                parts=self._parts(builder.info.splits),
                image_key=self.image_key,
                label_key=self.label_key,
                size=self.size,
                progress=progress,
            )

    def _builder(self) -> Any:
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core import dataset_info, read_only_builder

        data_dir = expand(self.data_dir)
        where = "TFDS's default data directory" if data_dir is None else data_dir
        try:
            # From the files alone: the data set's code, which may want TensorFlow, is not imported.
            return read_only_builder.builder_from_files(self.name, data_dir=data_dir, file_format="array_record")
        except tfds.core.DatasetNotFoundError:
            pass
        except dataset_info.DatasetInfoFileError as error:
            raise UserError(
                f"{self.name} is damaged in {where}: {error}. Delete its folder and prepare it again."
            ) from error
        except ValueError as error:
            if "file format" in str(error).lower():
                raise UserError(
                    f"{self.name} must be prepared in array_record form; in {where} it has another: {error} "
                    f"Prepare it again in another --data.data-dir:\n{self._recipe()}"
                ) from error
            raise UserError(
                f"--data.name must read data_set, data_set/config or data_set/config:version; got {self.name!r}."
            ) from error
        plain = self.name.split("/")[0].split(":")[0]
        known = set(tfds.list_builders(with_community_datasets=False))
        if plain in known:
            raise UserError(
                f"{self.name} is a TFDS data set, but is not prepared in {where}. Prepare it once, with TensorFlow "
                f"(the extra `tf`); it is read without TensorFlow afterwards:\n{self._recipe()}"
            )
        on_disk = [] if data_dir is None else _folders(Path(data_dir))
        close = difflib.get_close_matches(plain, sorted(known | set(on_disk)), n=5)
        hint = f"Did you mean {', '.join(close)}?" if close else "See https://www.tensorflow.org/datasets/catalog."
        raise UserError(f"--data.name must be a TFDS data set; {plain!r} is neither known nor in {where}. {hint}")

    def _recipe(self) -> str:
        place = "" if self.data_dir is None else f"data_dir={expand(self.data_dir)!r}, "
        return (
            "  pip install -e '.[experiments,tf]'\n"
            f'  python -c "import tensorflow_datasets as tfds; tfds.builder({self.name!r}, {place}'
            "file_format='array_record').download_and_prepare()\""
        )

    def _check_features(self, features: Any) -> None:
        import tensorflow_datasets as tfds

        image = self._feature(features, self.image_key, "image-key")
        if not isinstance(image, tfds.features.Image) or image.np_dtype != np.uint8:
            raise UserError(
                f"--data.image-key must name an image of 8-bit pixels; {self.image_key!r} of {self.name} is {image}. "
                f"The data set has {', '.join(features)}."
            )
        if self.label_key is None:
            return
        label = self._feature(features, self.label_key, "label-key", " Or pass None to read no labels.")
        if not isinstance(label, tfds.features.ClassLabel):
            raise UserError(
                f"--data.label-key must name a class label; {self.label_key!r} of {self.name} is {label}. "
                "Pass another feature, or None to read no labels."
            )

    def _feature(self, features: Any, key: str, option: str, more: str = "") -> Any:
        if key not in features:
            raise UserError(
                f"{self.name} has no feature {key!r}; it has {', '.join(features)}. Pass --data.{option}.{more}"
            )
        return features[key]

    def _parts(self, splits: Any) -> list[tuple[str, range]]:
        for option, split in (("train-split", self.train_split), ("test-split", self.test_split)):
            if split not in splits and (option, split) != ("test-split", "test"):
                raise UserError(
                    f"{self.name} has no split {split!r}; it has {', '.join(splits)}. Pass one as --data.{option}."
                )
        count = splits[self.train_split].num_examples
        if self.test_split in splits and self.test_split != self.train_split:
            return [
                (self.train_split, range(count)),
                (self.test_split, range(splits[self.test_split].num_examples)),
            ]
        held_out = max(1, round(_TEST_SHARE * count))
        return [(self.train_split, range(count - held_out)), (self.train_split, range(count - held_out, count))]


def _folders(root: Path) -> list[str]:
    return [path.name for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
