"""Digits, MNIST, Fashion-MNIST: what is read equals what was published; missing and wrong files are named."""

import functools
import gzip
import http.server
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow_datasets")
pytest.importorskip("grain")

from experiments.data import Digits, FashionMnist, Mnist, Tfds, batches
from experiments.data import idx as idx_module
from experiments.errors import UserError

ROOT = Path(__file__).parents[1]
RAW = Path(os.environ.get("JAXDIFF_RAW_DATA", ROOT.parent / "shared" / "data"))


def raw_folder(name):
    folder = RAW / name
    if not (folder / "train-images-idx3-ubyte.gz").is_file():
        pytest.skip(f"no raw files of {name}: set JAXDIFF_RAW_DATA to the folder that holds {name}/")
    return folder


def in_fresh_python(code, *arguments):
    """Runs code in a Python that has imported nothing of ours, warnings as errors; returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("digits"))


class TestDigits:
    def test_values_labels_and_split(self, data_dir):
        from sklearn.datasets import load_digits

        data = Digits(data_dir=data_dir).load()
        assert (data.shape, data.classes, data.name) == ((8, 8, 1), tuple("0123456789"), "digits")
        assert (len(data.train), len(data.test)) == (1438, 359)
        assert "CC BY 4.0" in data.provenance
        counts, labels = load_digits(return_X_y=True)
        published = np.rint(counts * 255 / 16).astype(np.uint8)
        read = np.concatenate([data.train.images[:], data.test.images[:]]).reshape(-1, 64)
        read_labels = np.concatenate([data.train.labels[:], data.test.labels[:]])

        def rows(pixels, labels):
            return sorted((p.tobytes(), int(label)) for p, label in zip(pixels, labels, strict=True))

        assert rows(read, read_labels) == rows(published, labels)
        shares = np.bincount(data.test.labels[:]) / np.bincount(labels)
        assert np.abs(shares - 0.2).max() < 0.005

    def test_second_load_prepares_nothing_and_agrees(self, data_dir):
        said = []
        first = Digits(data_dir=data_dir).load()
        second = Digits(data_dir=data_dir).load(said.append)
        assert said == []
        assert first.checksum == second.checksum
        assert len(first.checksum) == 64
        np.testing.assert_array_equal(first.train.images[:], second.train.images[:])

    def test_a_damaged_cache_is_decoded_again(self, data_dir):
        first = Digits(data_dir=data_dir).load()
        caches = list(Path(data_dir).rglob("decoded-*.npz"))
        assert len(caches) == 2
        for cache in caches:
            data = bytearray(cache.read_bytes())
            data[len(data) // 2] ^= 255
            cache.write_bytes(data)
        assert Digits(data_dir=data_dir).load().checksum == first.checksum
        for cache in caches:
            cache.write_bytes(b"")
        assert Digits(data_dir=data_dir).load().checksum == first.checksum

    def test_a_tilde_is_the_home_folder(self, tmp_path, monkeypatch):
        (tmp_path / "home").mkdir()
        (tmp_path / "work").mkdir()
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.chdir(tmp_path / "work")
        assert (
            Digits(data_dir="~/tfds").load().checksum == Tfds(name="jaxdiff_digits", data_dir="~/tfds").load().checksum
        )
        assert [p.name for p in (tmp_path / "home").iterdir()] == ["tfds"]
        assert list((tmp_path / "work").iterdir()) == []

    def test_tfds_reads_it_by_name(self, data_dir):
        ours, theirs = Digits(data_dir=data_dir).load(), Tfds(name="jaxdiff_digits", data_dir=data_dir).load()
        assert ours.checksum == theirs.checksum
        assert ours.classes == theirs.classes

    def test_large_splits_are_read_from_records(self, data_dir, monkeypatch):
        small = Digits(data_dir=data_dir).load()
        monkeypatch.setattr("experiments.data.reading.IN_MEMORY_BYTES", 1000)
        large = Digits(data_dir=data_dir).load()
        assert not isinstance(large.train.images, np.ndarray)
        assert large.train.images.shape == small.train.images.shape == (1438, 8, 8, 1)
        assert large.train.images.dtype == np.uint8
        assert large.checksum.startswith("records:")
        for index in (0, -1, np.int64(7), slice(3, 40, 4), [5, 5, 2], np.arange(1438) % 100 == 3, []):
            for a, b in zip(small.train[index], large.train[index], strict=True):
                np.testing.assert_array_equal(a, b)
                assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(large.train.labels), small.train.labels)
        np.testing.assert_array_equal(large.test.images[2:5], small.test.images[2:5])
        with pytest.raises(IndexError):
            large.train[1438]
        left = batches(small.train, batch_size=32, seed=0, flip=True)
        right = batches(large.train, batch_size=32, seed=0, flip=True, prefetch=4)
        for _ in range(5):
            a, b = next(left), next(right)
            for key in a:
                np.testing.assert_array_equal(a[key], b[key])


class TestImports:
    def test_the_package_imports_neither_tfds_nor_grain(self):
        code = "import sys, experiments.data; print(*sorted(set(m.split('.')[0] for m in sys.modules)))"
        loaded = in_fresh_python(code).split()
        assert not {"tensorflow", "tensorflow_datasets", "grain", "jax", "PIL", "sklearn"} & set(loaded)

    def test_no_tensorflow_from_nothing_to_batches(self, tmp_path):
        code = """
import sys
from experiments.data import Digits, batches
data = Digits(data_dir=sys.argv[1]).load()
next(batches(data.train, batch_size=8, seed=0))
print("tensorflow" in sys.modules, "tensorflow_datasets" in sys.modules, "grain" in sys.modules)
"""
        assert in_fresh_python(code, tmp_path) == "False True True\n"


class TestIdx:
    """Files in the published layout with a few random pictures; their checksums stand in for the published ones."""

    @pytest.fixture
    def small(self, tmp_path, monkeypatch):
        rng = np.random.default_rng(0)
        folder = tmp_path / "raw"
        folder.mkdir()
        arrays = {}
        for part, count in (("train", 30), ("t10k", 12)):
            pixels = rng.integers(0, 256, (count, 28, 28), np.uint8)
            labels = (np.arange(count) % 10).astype(np.uint8)
            arrays[part] = pixels, labels
            for kind, array in (("images-idx3", pixels), ("labels-idx1", labels)):
                header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
                (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(header + array.tobytes()))
        self.trust(monkeypatch, folder)
        return folder, arrays

    @staticmethod
    def trust(monkeypatch, folder):
        import hashlib

        sums = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}
        monkeypatch.setattr(idx_module, "_MNIST_FILES", sums)

    def test_reads_pixels_labels_and_order(self, small, tmp_path):
        folder, arrays = small
        data = Mnist(raw_dir=str(folder), data_dir=str(tmp_path / "tfds")).load()
        np.testing.assert_array_equal(data.train.images[:][..., 0], arrays["train"][0])
        np.testing.assert_array_equal(data.train.labels[:], arrays["train"][1])
        np.testing.assert_array_equal(data.test.images[:][..., 0], arrays["t10k"][0])
        assert data.shape == (28, 28, 1)

    def test_missing_files_are_named(self, tmp_path):
        (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"")
        with pytest.raises(UserError) as error:
            FashionMnist(raw_dir=str(tmp_path), data_dir=str(tmp_path / "tfds")).load()
        for word in ("t10k-labels-idx1-ubyte.gz", "--data.raw-dir", "http", str(tmp_path)):
            assert word in str(error.value)

    def test_a_changed_file_is_refused(self, small, tmp_path):
        folder, _ = small
        with (folder / "t10k-labels-idx1-ubyte.gz").open("ab") as file:
            file.write(b"x")
        with pytest.raises(UserError, match=r"t10k-labels-idx1-ubyte\.gz .* sha256"):
            Mnist(raw_dir=str(folder), data_dir=str(tmp_path / "tfds")).load()

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            (b"not gzip", "gzipped"),
            (gzip.compress(b"\x00\x00\x08"), "IDX"),
            (gzip.compress(b"\x00\x00\x0d\x01" + bytes(8)), "IDX"),
            (gzip.compress(b"\x00\x00\x08\x01\x00\x00\x00\x09abc"), "holds 3 bytes"),
            (gzip.compress(bytes(2000))[:-9], "gzipped"),
        ],
        ids=["not packed", "short", "another type", "too few", "cut off"],  # packed bytes hold the time of day
    )
    def test_files_that_are_not_idx(self, tmp_path, content, says):
        (tmp_path / "file.gz").write_bytes(content)
        with pytest.raises(UserError, match=says):
            idx_module.read_idx(tmp_path / "file.gz")

    def test_without_files_and_network_one_clear_error_soon(self, tmp_path, monkeypatch):
        monkeypatch.setattr(idx_module, "_MNIST_MIRRORS", ("http://127.0.0.1:9/a/", "http://127.0.0.1:9/b/"))
        began = time.perf_counter()
        with pytest.raises(UserError) as error:
            Mnist(data_dir=str(tmp_path)).load()
        assert time.perf_counter() - began < 10
        for word in (*idx_module._MNIST_FILES, "--data.raw-dir", "http://127.0.0.1:9/a/", "http://127.0.0.1:9/b/"):
            assert word in str(error.value)

    def test_downloads_from_the_first_mirror_that_is_right(self, small, tmp_path, monkeypatch):
        folder, arrays = small
        good, bad = tmp_path / "served" / "good", tmp_path / "served" / "bad"
        shutil.copytree(folder, good)
        shutil.copytree(folder, bad)
        (bad / "train-labels-idx1-ubyte.gz").write_bytes(b"other")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        handler = functools.partial(QuietHandler, directory=str(tmp_path / "served"))
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                here = f"http://127.0.0.1:{server.server_port}"
                monkeypatch.setattr(idx_module, "_MNIST_MIRRORS", (f"{here}/absent/", f"{here}/bad/", f"{here}/good/"))
                said = []
                data = Mnist(data_dir=str(tmp_path / "tfds")).load(said.append)
            finally:
                server.shutdown()
                thread.join()
        np.testing.assert_array_equal(data.train.images[:][..., 0], arrays["train"][0])
        assert any("/good/" in line for line in said)
        assert not any("/absent/" in line for line in said)


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


MNIST_COUNTS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]


class TestPublished:
    """The published files as they are; the splits are compared with the files byte for byte."""

    @pytest.mark.parametrize(("name", "counts"), [("mnist", MNIST_COUNTS), ("fashion-mnist", [6000] * 10)])
    def test_raw_files(self, name, counts):
        folder = raw_folder(name)
        labels = idx_module.read_idx(folder / "train-labels-idx1-ubyte.gz")
        assert np.bincount(labels).tolist() == counts
        assert idx_module.read_idx(folder / "t10k-images-idx3-ubyte.gz").shape == (10_000, 28, 28)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("source", "name", "counts"),
        [(FashionMnist, "fashion-mnist", [6000] * 10), (Mnist, "mnist", MNIST_COUNTS)],
    )
    def test_counts_and_pixels(self, source, name, counts, tmp_path):
        folder = raw_folder(name)
        data = source(raw_dir=str(folder), data_dir=str(tmp_path)).load()
        assert np.bincount(data.train.labels[:]).tolist() == counts
        assert (data.shape, len(data.classes)) == ((28, 28, 1), 10)
        for split, part in ((data.train, "train"), (data.test, "t10k")):
            pixels = gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes())[16:]
            labels = gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes())[8:]
            assert split.images[:].tobytes() == pixels
            assert split.labels[:].astype(np.uint8).tobytes() == labels
        again = source(data_dir=str(tmp_path)).load()  # prepared: neither raw files nor network are needed
        assert again.checksum == data.checksum


def test_sources_are_keyword_only_and_frozen():
    with pytest.raises(TypeError):
        Mnist("raw")  # type: ignore[misc]
    with pytest.raises(AttributeError):
        Digits().data_dir = "x"  # type: ignore[misc]


def test_sources_become_flags():
    tyro = pytest.importorskip("tyro")
    assert tyro.cli(Mnist, args=["--raw-dir", "x"]) == Mnist(raw_dir="x")
    assert tyro.cli(Tfds, args=["--name", "cifar10", "--size", "16", "--label-key", "None"]) == Tfds(
        name="cifar10", size=16, label_key=None
    )
