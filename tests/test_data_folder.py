"""Folders of pictures: formats, classes, cutting, hold-out, what happens when files change, unreadable pictures."""

import os

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("tensorflow_datasets")

from experiments.data import Folder
from experiments.data.pictures import to_array
from experiments.errors import UserError


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def plain(value, height=6, width=6):
    return np.full((height, width, 3), value, np.uint8)


@pytest.fixture
def load(tmp_path):
    def load(folder="pictures", **options):
        return Folder(folder=str(tmp_path / folder), data_dir=str(tmp_path / "tfds"), **options).load()

    return load


def everything(data):
    return np.concatenate([data.train.images[:], data.test.images[:]])


class TestReading:
    def test_classes_are_sub_folders(self, tmp_path, load):
        for i in range(12):
            save(tmp_path / "pictures" / "dark" / f"{i}.png", plain(i))
            save(tmp_path / "pictures" / "light" / "deeper" / f"{i}.png", plain(200 + i))
        (tmp_path / "pictures" / "empty").mkdir()
        save(tmp_path / "pictures" / ".hidden" / "x.png", plain(99))
        (tmp_path / "pictures" / "dark" / "notes.txt").write_text("not a picture")
        data = load(size=4)
        assert (data.classes, data.shape, data.name) == (("dark", "light"), (4, 4, 3), "pictures")
        assert (len(data.train), len(data.test)) == (22, 2)
        for split in (data.train, data.test):
            np.testing.assert_array_equal(split.labels[:], split.images[:][:, 0, 0, 0] >= 200)
        assert sorted(everything(data)[:, 0, 0, 0]) == [*range(12), *range(200, 212)]
        assert str(tmp_path) in data.provenance

    def test_no_sub_folders_no_labels(self, tmp_path, load):
        for i in range(3):
            save(tmp_path / "pictures" / f"{i}.png", plain(i))
        data = load()
        assert (data.classes, data.train.labels, data.shape) == ((), None, (32, 32, 3))
        assert (len(data.train), len(data.test)) == (2, 1)

    def test_formats(self, tmp_path, load):
        names = ["a.png", "b.jpg", "c.JPEG", "d.webp", "e.bmp", "f.gif"]
        for name in names:
            save(tmp_path / "pictures" / name, plain(128))
        data = load(size=6)
        assert len(everything(data)) == len(names)
        assert np.abs(everything(data).astype(int) - 128).max() <= 3

    def test_gray(self, tmp_path, load):
        save(tmp_path / "pictures" / "a.png", np.broadcast_to(np.uint8([255, 0, 0]), (5, 5, 3)).copy())
        save(tmp_path / "pictures" / "b.png", np.full((5, 5), 7, np.uint8))
        data = load(size=5, channels=1)
        assert data.shape == (5, 5, 1)
        assert sorted(everything(data)[:, 0, 0, 0]) == [7, 76]  # 0.299 * 255

    def test_moving_pictures_give_their_first(self, tmp_path, load):
        frames = [Image.fromarray(plain(v)) for v in (10, 250)]
        (tmp_path / "pictures").mkdir()
        for name in ("a.gif", "b.gif"):
            frames[0].save(tmp_path / "pictures" / name, save_all=True, append_images=frames[1:])
        assert np.abs(everything(load(size=6)).astype(int) - 10).max() <= 2

    def test_photographs_stand_upright(self, tmp_path, load):
        exif = Image.Exif()
        exif[0x0112] = 3  # orientation: turned by 180 degrees
        half = plain(0)
        half[3:] = 255
        save(tmp_path / "pictures" / "a.png", half, exif=exif)
        save(tmp_path / "pictures" / "b.png", half[::-1].copy())
        first, second = everything(load(size=6))
        np.testing.assert_array_equal(first, second)

    def test_hold_out_is_fixed_and_disjoint(self, tmp_path, load):
        for i in range(40):
            save(tmp_path / "pictures" / f"{i:02}.png", plain(i))
        first = load(size=2)
        assert (len(first.train), len(first.test)) == (36, 4)
        assert sorted(everything(first)[:, 0, 0, 0]) == list(range(40))
        held = set(first.test.images[:][:, 0, 0, 0].tolist())
        save(tmp_path / "pictures" / "new.png", plain(99))
        second = load(size=2)
        assert len(held & set(second.test.images[:][:, 0, 0, 0].tolist())) >= 3


class TestChanges:
    def test_changed_pictures_are_read_again(self, tmp_path, load):
        for i in range(3):
            save(tmp_path / "pictures" / f"{i}.png", plain(i))
        first = load(size=6)
        assert load(size=6).checksum == first.checksum
        save(tmp_path / "pictures" / "0.png", plain(77))
        os.utime(tmp_path / "pictures" / "0.png", (1, 1))
        assert 77 in everything(load(size=6))
        (tmp_path / "pictures" / "0.png").unlink()
        assert len(everything(load(size=6))) == 2

    def test_size_and_channels_do_not_share_a_cache(self, tmp_path, load):
        for i in range(2):
            save(tmp_path / "pictures" / f"{i}.png", plain(i))
        assert [load(size=s, channels=c).shape for s, c in [(4, 3), (5, 3), (4, 1), (4, 3)]] == [
            (4, 4, 3),
            (5, 5, 3),
            (4, 4, 1),
            (4, 4, 3),
        ]


class TestWrongInputs:
    def test_unreadable_picture_is_named(self, tmp_path, load):
        for i in range(3):
            save(tmp_path / "pictures" / f"{i}.png", plain(i))
        (tmp_path / "pictures" / "broken.png").write_bytes(b"no picture")
        with pytest.raises(UserError, match=r"broken\.png could not be read.*remove it"):
            load()
        (tmp_path / "pictures" / "broken.png").unlink()
        assert len(everything(load())) == 3

    def test_cut_short(self, tmp_path, load):
        save(tmp_path / "pictures" / "a.png", np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
        save(tmp_path / "pictures" / "b.png", plain(0))
        whole = (tmp_path / "pictures" / "a.png").read_bytes()
        (tmp_path / "pictures" / "a.png").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(UserError, match=r"a\.png could not be read"):
            load()

    def test_sixteen_bit(self, tmp_path, load):
        save(tmp_path / "pictures" / "deep.png", np.full((4, 4), 40_000, np.uint16))
        save(tmp_path / "pictures" / "b.png", plain(0))
        with pytest.raises(UserError, match=r"deep\.png.*8 bits"):
            load()

    @pytest.mark.parametrize("count", [0, 1])
    def test_too_few(self, tmp_path, load, count):
        (tmp_path / "pictures").mkdir()
        (tmp_path / "pictures" / "notes.txt").write_text("")
        for i in range(count):
            save(tmp_path / "pictures" / f"{i}.png", plain(i))
        with pytest.raises(UserError, match=f"at least two pictures.* has {count} .*png"):
            load()

    def test_no_folder(self, load):
        with pytest.raises(UserError, match="is not a folder"):
            load("nowhere")

    def test_loose_pictures_beside_classes(self, tmp_path, load):
        save(tmp_path / "pictures" / "a" / "1.png", plain(0))
        save(tmp_path / "pictures" / "loose.png", plain(0))
        with pytest.raises(UserError, match=r"1 of 2 .*loose\.png"):
            load()

    @pytest.mark.parametrize(("options", "says"), [({"channels": 4}, "channels"), ({"size": 0}, "size")])
    def test_options(self, load, options, says):
        with pytest.raises(UserError, match=says):
            load(**options)


class TestPicture:
    def test_middle_square_antialiased(self):
        stripes = np.zeros((64, 192, 3), np.uint8)
        stripes[:, 1::2] = 255  # too fine for 16 pixels: an antialiased reduction is a flat gray
        small = to_array(Image.fromarray(stripes), channels=3, size=16)
        assert small.shape == (16, 16, 3)
        assert np.abs(small.astype(int) - 127).max() < 12
        thirds = np.repeat(np.uint8([10, 20, 30]), 64)[None, :, None] * np.ones((64, 1, 3), np.uint8)
        assert (to_array(Image.fromarray(thirds), channels=3, size=64) == 20).all()

    def test_transparency_is_laid_on_white(self):
        clear = np.zeros((4, 4, 4), np.uint8)
        assert (to_array(Image.fromarray(clear), channels=3) == 255).all()
        palette = Image.fromarray(clear).convert("P")
        palette.info["transparency"] = bytes([0] * 256)
        assert (to_array(palette, channels=1, size=2) == 255).all()
