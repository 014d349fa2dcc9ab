"""Any prepared TFDS data set by name: one that our code has never heard of, read from its files alone."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

tfds = pytest.importorskip("tensorflow_datasets")
pytest.importorskip("grain")

from experiments.data import Tfds, batches  # noqa: E402
from experiments.errors import UserError  # noqa: E402

ROOT = Path(__file__).parents[1]
COUNTS = {"train": 40, "test": 10}


def tile(i, height=10, width=14, channels=3):
    """A picture that differs in every pixel and with i."""
    return ((np.arange(height * width * channels) * 7 + i) % 256).astype(np.uint8).reshape(height, width, channels)


def pil(array):
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


class StrangeTiles(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Pictures of one size, and of several sizes under another key, with text and sequences beside them."""

    VERSION = tfds.core.Version("2.1.0")
    name = "strange_tiles"
    channels = 3
    splits = tuple(COUNTS.items())

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, self.channels)),
            "odd": tfds.features.Image(shape=(None, None, self.channels)),
            "label": tfds.features.ClassLabel(names=["left", "right"]),
            "absent": tfds.features.ClassLabel(num_classes=3),
            "words": tfds.features.Text(),
            "boxes": tfds.features.Sequence({"corner": tfds.features.Tensor(shape=(2,), dtype=np.float32)}),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), homepage="https://example.org/tiles"
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split, count) for split, count in self.splits}

    def _generate_examples(self, split, count):
        for i in range(count):
            yield (
                i,
                {
                    "image": pil(tile(i, channels=self.channels)),
                    "odd": pil(tile(i, 20 + i % 3, 30, channels=self.channels)),
                    "label": i % 2,
                    "absent": -1,
                    "words": f"tile {i} of {split}",
                    "boxes": [{"corner": [0.0, 1.0]}] * (i % 3),
                },
            )


class GrayTiles(StrangeTiles, skip_registration=True):
    name = "gray_tiles"
    channels = 1
    splits = (("train", 30), ("extra", 5))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("tfds"))
    tfds.disable_progress_bar()
    for builder in (StrangeTiles, GrayTiles):
        builder(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


def by_start(images):
    """Pictures of `tile`, sorted by the i that they were made from."""
    return images[np.argsort(images[:, 0, 0, 0])]


class TestReading:
    def test_colour_labels_and_classes(self, data_dir):
        data = Tfds(name="strange_tiles", data_dir=data_dir).load()
        assert (data.shape, data.classes) == ((10, 14, 3), ("left", "right"))
        assert {"train": len(data.train), "test": len(data.test)} == COUNTS
        assert "https://example.org/tiles" in data.provenance
        assert "strange_tiles/2.1.0" in data.provenance
        np.testing.assert_array_equal(by_start(data.train.images[:]), [tile(i) for i in range(40)])
        np.testing.assert_array_equal(data.train.labels[:], data.train.images[:][:, 0, 0, 0] % 2)

    def test_gray_and_a_held_out_tenth(self, data_dir):
        data = Tfds(name="gray_tiles", data_dir=data_dir).load()
        assert (data.shape, len(data.train), len(data.test)) == ((10, 14, 1), 27, 3)
        both = np.concatenate([data.train.images[:], data.test.images[:]])
        np.testing.assert_array_equal(by_start(both), [tile(i, channels=1) for i in range(30)])

    def test_another_split_as_test(self, data_dir):
        data = Tfds(name="gray_tiles", test_split="extra", data_dir=data_dir).load()
        assert (len(data.train), len(data.test)) == (30, 5)

    def test_without_labels(self, data_dir):
        data = Tfds(name="strange_tiles", label_key=None, data_dir=data_dir).load()
        assert data.classes == ()
        assert data.train.labels is None
        assert set(next(batches(data.train, batch_size=4, seed=0))) == {"x0", "index"}

    def test_size_cuts_the_middle_and_scales(self, data_dir):
        data = Tfds(name="strange_tiles", image_key="odd", size=8, data_dir=data_dir).load()
        assert data.shape == (8, 8, 3)
        square = Tfds(name="strange_tiles", size=10, data_dir=data_dir).load()  # the height: only the sides are cut
        expected = [tile(i)[:, 2:12] for i in range(40)]
        found = square.train.images[:]
        np.testing.assert_array_equal(found[np.argsort(found[:, 0, 0, 0])], sorted(expected, key=lambda x: x[0, 0, 0]))

    def test_version_in_the_name(self, data_dir):
        assert len(Tfds(name="strange_tiles:2.1.0", data_dir=data_dir).load().train) == 40

    def test_keys_and_sizes_do_not_share_a_cache(self, data_dir):
        shapes = {Tfds(name="strange_tiles", size=size, data_dir=data_dir).load().shape for size in (None, 4, 5, 4)}
        assert shapes == {(10, 14, 3), (4, 4, 3), (5, 5, 3)}

    def test_lazily(self, data_dir, monkeypatch):
        small = Tfds(name="gray_tiles", data_dir=data_dir).load()
        monkeypatch.setattr("experiments.data.reading.IN_MEMORY_BYTES", 0)
        large = Tfds(name="gray_tiles", data_dir=data_dir).load()
        np.testing.assert_array_equal(large.test.images[:], small.test.images[:])
        np.testing.assert_array_equal(large.test.labels[:], small.test.labels[:])

    def test_by_name_without_the_code_or_tensorflow(self, data_dir):
        code = """
import sys
from experiments.data import Tfds
data = Tfds(name="strange_tiles", data_dir=sys.argv[1]).load()
print(len(data.train), data.shape, data.classes, "tensorflow" in sys.modules, "test_data_tfds" in sys.modules)
"""
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code, data_dir], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == "40 (10, 14, 3) ('left', 'right') False False\n"
        assert done.stderr == ""


class TestWrongInputs:
    @pytest.mark.parametrize(
        ("wrong", "says"),
        [
            ({"image_key": "picture"}, "no feature 'picture'; it has .*image"),
            ({"image_key": "words"}, "image-key must name an image"),
            ({"label_key": "class"}, "no feature 'class'.*None"),
            ({"label_key": "words"}, "label-key must name a class label"),
            ({"label_key": "absent"}, "got -1"),
            ({"train_split": "learn"}, "no split 'learn'; it has train, test"),
            ({"test_split": "validation"}, "no split 'validation'"),
            ({"image_key": "odd"}, "one size.*--data.size"),
        ],
    )
    def test_features_and_splits(self, data_dir, wrong, says):
        with pytest.raises(UserError, match=says):
            Tfds(**({"name": "strange_tiles", "data_dir": data_dir} | wrong)).load()

    @pytest.mark.parametrize(
        ("name", "close"), [("strange_tile", "strange_tiles"), ("cifar11", "cifar10"), ("zzzzzz", "catalog")]
    )
    def test_unknown_name(self, data_dir, name, close):
        with pytest.raises(UserError, match=close):
            Tfds(name=name, data_dir=data_dir).load()

    def test_not_prepared_says_how(self, data_dir):
        with pytest.raises(UserError) as error:
            Tfds(name="cifar10", data_dir=data_dir).load()
        for word in ("tensorflow_datasets", "'cifar10'", data_dir, "array_record", "download_and_prepare", "tf]"):
            assert word in str(error.value)

    def test_malformed_name(self, data_dir):
        with pytest.raises(UserError, match="data_set/config"):
            Tfds(name="What is this?", data_dir=data_dir).load()

    def test_other_file_format(self, data_dir, tmp_path):
        source = Path(data_dir) / "gray_tiles" / "2.1.0"
        target = tmp_path / "gray_tiles" / "2.1.0"
        target.mkdir(parents=True)
        for name in ("features.json", "label.labels.txt"):
            (target / name).write_bytes((source / name).read_bytes())
        info = json.loads((source / "dataset_info.json").read_text()) | {"fileFormat": "tfrecord"}
        (target / "dataset_info.json").write_text(json.dumps(info))
        with pytest.raises(UserError, match="array_record form"):
            Tfds(name="gray_tiles", data_dir=str(tmp_path)).load()

    def test_damaged(self, data_dir, tmp_path):
        target = tmp_path / "gray_tiles" / "2.1.0"
        target.mkdir(parents=True)
        (target / "features.json").write_bytes((Path(data_dir) / "gray_tiles" / "2.1.0" / "features.json").read_bytes())
        with pytest.raises(UserError, match="prepare it again"):
            Tfds(name="gray_tiles", data_dir=str(tmp_path)).load()

    def test_size(self):
        with pytest.raises(UserError, match="size"):
            Tfds(name="x", size=0)
