"""CIFAR-10 from a tiny archive in the published layout, and archives that are not."""

import hashlib
import io
import tarfile

import numpy as np
import pytest

pytest.importorskip("tensorflow_datasets")

from experiments.data import Cifar10
from experiments.data import cifar as cifar_module
from experiments.errors import UserError


class TestCifar:
    LABELS = (np.arange(7) % 10).astype(np.uint8)

    @staticmethod
    def archive(path, *, labels=LABELS, leave_out=(), cut=0):
        """The published layout with a few random pictures a batch; returns the pictures by batch, (N, 32, 32, 3)."""
        rng = np.random.default_rng(1)
        pictures = {}
        with tarfile.open(path, "w:gz") as archive:
            for name in [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]:
                pixels = rng.integers(0, 256, (len(labels), 32, 32, 3), np.uint8)
                pictures[name] = pixels
                planes = pixels.transpose(0, 3, 1, 2).reshape(len(labels), -1)
                data = np.concatenate([labels[:, None], planes], axis=1).tobytes()
                if name in leave_out:
                    continue
                member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
                data = data[: len(data) - cut]
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
            member = tarfile.TarInfo("../outside.bin")  # nothing is ever unpacked to disk
            archive.addfile(member, io.BytesIO())
        return pictures

    def test_reads_the_published_layout(self, tmp_path, monkeypatch):
        path = tmp_path / "cifar-10-binary.tar.gz"
        pictures = self.archive(path)
        with pytest.raises(UserError, match="sha256"):
            Cifar10(raw_dir=str(tmp_path), data_dir=str(tmp_path / "tfds")).load()
        monkeypatch.setattr(cifar_module, "_FILES", {path.name: hashlib.sha256(path.read_bytes()).hexdigest()})
        data = Cifar10(raw_dir=str(tmp_path), data_dir=str(tmp_path / "tfds")).load()
        assert (data.shape, len(data.train), len(data.test)) == ((32, 32, 3), 35, 7)
        assert data.classes[6] == "frog"
        train = np.concatenate([pictures[f"data_batch_{i}.bin"] for i in range(1, 6)])
        np.testing.assert_array_equal(data.train.images[:], train)
        np.testing.assert_array_equal(data.test.images[:], pictures["test_batch.bin"])
        np.testing.assert_array_equal(data.train.labels[:], np.tile(self.LABELS, 5))

    @pytest.mark.parametrize(
        ("wrong", "says"),
        [
            ({"leave_out": ("data_batch_3.bin",)}, r"data_batch_3\.bin"),
            ({"cut": 5}, "3073"),
            ({"labels": np.full(3, 12, np.uint8)}, r"0\.\.9"),
        ],
    )
    def test_wrong_archives(self, tmp_path, wrong, says):
        self.archive(tmp_path / "a.tar.gz", **wrong)
        with pytest.raises(UserError, match=says):
            cifar_module.read_archive(tmp_path / "a.tar.gz")

    def test_not_an_archive(self, tmp_path):
        (tmp_path / "a.tar.gz").write_bytes(b"<html>moved</html>")
        with pytest.raises(UserError, match="tar archive"):
            cifar_module.read_archive(tmp_path / "a.tar.gz")

    def test_missing_archive(self, tmp_path):
        with pytest.raises(UserError, match=r"cifar-10-binary\.tar\.gz"):
            Cifar10(raw_dir=str(tmp_path), data_dir=str(tmp_path / "tfds")).load()
