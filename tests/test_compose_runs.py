"""Composing and editing pictures from the command line, with a run that was trained for neither."""

import dataclasses
import json

import numpy as np
import pytest
import tiny
from PIL import Image

from experiments import compose, edit, editing, train
from experiments.composition import composing
from experiments.composition import layout as canvas
from experiments.data import Digits, to_pixels
from experiments.errors import UserError
from experiments.info import DataInfo
from experiments.loading import load
from jaxdiff import solvers

DIGITS = DataInfo(shape=(8, 8, 1), classes=tuple(map(str, range(10))))
CLOTHES = DataInfo(shape=(8, 8, 1), classes=("T-shirt/top", "Ankle boot", "boot"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "digits"
    flags = ["--network.width", "64", "--steps", "200", "--ema", "0.95", "--log-every", "100"]
    train.main(["digits", "--out", str(out), *tiny.FLAGS, *flags, "--sampler.steps", "6"])
    return out


def arrays_of(out):
    with np.load(out.with_suffix(".npz")) as file:
        return dict(file)


def test_layouts_say_where_and_what():
    left, right = canvas.parse("7@left, 3@right", DIGITS, (8, 16))
    assert (left.labels, right.labels) == ((7,), (3,)) and left.mask[:, :8].all() and not left.mask[:, 8:].any()
    assert [r.labels for r in canvas.parse("3,1,4", DIGITS, (8, 20))] == [(3,), (1,), (4,)]
    pixels = canvas.parse("7@0:6,2:8,none@rest", DIGITS, (8, 16))
    fractions = canvas.parse("7@0.0:0.375,0.25:1.0,none@rest", DIGITS, (8, 16))
    for region in (pixels[0], fractions[0]):
        assert region.mask.sum() == 36 and region.mask[2:, :6].all()
    assert pixels[1].labels == () and pixels[1].mask.sum() == 128 - 36
    assert canvas.parse("5@0:4,6@4:16", DIGITS, (8, 16))[0].mask.sum() == 32
    centre = canvas.parse("5@center,none@rest", DIGITS, (8, 16))[0].mask
    assert centre.sum() == 4 * 8 and centre[2:6, 4:12].all()
    assert canvas.concepts("7+3-1", DIGITS) == ((7, 3, 1), (1, 1, -1))
    assert canvas.concepts("-1", DIGITS) == ((1,), (-1,))
    assert canvas.concepts("T-shirt/top-Ankle boot+boot", CLOTHES) == ((0, 1, 2), (1, -1, 1))


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("7@left,12@right", "unknown class '12'; the classes are 0, 1"),
        ("7+cat", "unknown class 'cat'"),
        ("7@left,3@middle", "unknown place 'middle'; use all, left"),
        ("7@left,3@0:10", r"overlap in 0:8,0:8 \(64 pixels\)"),
        (
            "7@left",
            r"nothing stands in 8:16,0:8 \(64 pixels\) of the canvas of 8 x 16; add an item for it, such as none@rest",
        ),
        ("7@left,3", "give every item a place"),
        ("7@left,,3@right", "empty item"),
        ("7@0:20,none@rest", "box '0:20' is columns 0 to 20"),
        ("7@4:4,none@rest", "box '4:4' is columns 4 to 4"),
        ("7@all,none@rest", "no place left"),
        ("7@rest,3@rest", "only one item can have the rest"),
        ("7+", "unknown class ''"),
    ],
)
def test_layouts_that_cannot_be(layout, message):
    with pytest.raises(UserError, match=message):
        canvas.parse(layout, DIGITS, (8, 16))


def test_layouts_need_classes():
    with pytest.raises(UserError, match="all that can stand anywhere is none"):
        canvas.parse("7", dataclasses.replace(DIGITS, classes=()), (8, 8))
    assert canvas.parse("none", dataclasses.replace(DIGITS, classes=()), (8, 8))[0].labels == ()


def test_seams_are_measured_where_they_are():
    x = np.zeros((3, 8, 16, 1))
    x[:, :, ::2] = 1.0  # every step is 1
    assert composing.steps(x, 2, circular=True).shape == (16,) and composing.steps(x, 1).shape == (7,)
    regions = canvas.parse("7@left,3@right", DIGITS, (8, 16))
    denoise = composing.compose.windows(lambda x, t, cond=None: x, (8, 16), (8, 8), (8, 4))
    even = composing.seams(x, denoise, regions, circular=True)
    assert even == {"region_seam": 1.0, "window_seam": 1.0, "wrap_seam": 1.0}
    x[:, :, 8:] += 2  # between the regions the step is 3 now
    cut = composing.seams(x, denoise, regions, circular=True)
    assert cut["region_seam"] == 3.0 > cut["window_seam"] > cut["wrap_seam"] == 1.0
    none = composing.seams(x, denoise, regions[:1], circular=False)
    assert none["wrap_seam"] is None


def run(finished, *flags):
    out = finished / "out" / "x.png"
    return compose.main([str(finished), "--count", "3", "--out", str(out), *flags]), out


def test_two_classes_on_a_wide_canvas(finished):
    figures, out = run(finished, "--layout", "7@left,3@right", "--canvas", "8x14", "--guidance-scale", "2")
    assert figures["stride"] == [8, 6] and figures["windows"] == 2
    samples = arrays_of(out)["samples"]
    assert samples.shape == (3, 8, 14, 1) and np.isfinite(samples).all() and samples.std(0).max() > 0
    assert json.loads(out.with_suffix(".json").read_text()) == figures
    assert figures["region_seam"] > 0 and figures["wrap_seam"] is None
    assert out.with_name("x-steps.png").exists()
    with Image.open(out) as sheet:
        assert sheet.size[0] > sheet.size[1] > 8
    again, _ = run(finished, "--layout", "7@left,3@right", "--canvas", "8x14", "--guidance-scale", "2", "--count", "1")
    np.testing.assert_allclose(arrays_of(out)["samples"], samples[:1], atol=1e-4)
    assert again["nfe"] == figures["nfe"] == 6 * figures["windows"] * 2


def test_concepts_corrections_and_a_panorama(finished):
    plain, out = run(finished, "--layout", "7", "--guidance-scale", "1")
    assert plain["nfe"] == 6 and arrays_of(out)["samples"].shape == (3, 8, 8, 1)
    both, _ = run(finished, "--layout", "7+3-1", "--corrections", "1", "--guidance-scale", "2")
    assert both["nfe"] == (6 + 5) * 4  # three concepts and none, and a Langevin step after all steps but the last
    flags = ("--layout", "3,1,4", "--canvas", "8x24", "--stride", "8x4")
    around, out = run(finished, *flags, "--circular", "--guidance-scale", "2")
    assert around["wrap_seam"] > 0 and around["windows"] == 6  # each over one item, by 6 of its 8 columns or all
    flat, _ = run(finished, *flags, "--guidance-scale", "2")
    assert flat["windows"] == 7 and flat["wrap_seam"] is None  # two of five see halves of two items


def test_a_layout_of_one_class_is_the_model_itself(finished):
    """One window, one class: the same picture as `experiments.sample` draws."""
    _, out = run(finished, "--layout", "7", "--guidance-scale", "3", "--seed", "4")
    model, params, _ = load(finished)
    sampler = dataclasses.replace(model.recipe.sampler, guidance_scale=3.0)
    drawn, _ = model.draw(params, np.full(3, 7, np.int32), 3, sampler=sampler, seed=4)
    composed = to_pixels(arrays_of(out)["samples"])
    assert np.abs(composed.astype(int) - drawn).max() <= 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--layout 7@left,3@right"),
        (["--layout", "7", "--canvas", "8by9"], "HEIGHTxWIDTH in pixels, such as 28x56, got '8by9'"),
        (["--layout", "7", "--canvas", "6x20"], "at least as large as the run's pictures, 8x8, got 6x20"),
        (["--layout", "7", "--canvas", "8x20", "--stride", "8x5"], "the stride must divide 12.*--canvas and --stride"),
        (["--layout", "7", "--canvas", "8x20", "--stride", "8x12"], "be at most the window"),
        (["--layout", "7", "--count", "0"], "--count must be at least 1"),
        (["--layout", "7,99"], "unknown class '99'"),
        (["--layout", "7", "--own", "0.2"], "own is the share"),
    ],
)
def test_mistakes_in_composing(finished, flags, message):
    with pytest.raises(UserError, match=message):
        compose.main([str(finished), *flags])


def change(finished, *flags):
    out = finished / "out" / "y.png"
    return edit.main([str(finished), "--count", "3", "--out", str(out), *flags]), out


PICTURE = np.asarray(Digits().load().test[3][0], np.float32) / np.float32(127.5) - 1


def test_sdedit_keeps_less_the_stronger_it_is(finished):
    none, out = change(finished, "--test", "3", "--strength", "0")
    np.testing.assert_array_equal(arrays_of(out)["samples"], np.broadcast_to(PICTURE, (3, 8, 8, 1)))
    assert none["nfe"] == 0 and none["from"] == none["to"] is not None
    weak, _ = change(finished, "--test", "3", "--strength", "0.2")
    strong, _ = change(finished, "--test", "3", "--strength", "0.9", "--to", "7", "--guidance-scale", "2")
    assert 0 < weak["change"] < strong["change"] and strong["to"] == "7" and strong["spread"] > 0
    assert 0 < weak["nfe"] < 6 and strong["nfe"] % 2 == 0


def test_inversion_and_back_is_the_picture_again(finished):
    same, out = change(finished, "--test", "3", "--method", "inversion", "--strength", "0.5", "--steps", "60")
    assert arrays_of(out)["samples"].shape == (1, 8, 8, 1)
    other, out = change(
        finished, "--test", "3", "--method", "inversion", "--strength", "0.9", "--steps", "60", "--to", "0"
    )
    assert same["change"] < 0.1 < other["change"]
    assert json.loads(out.with_suffix(".json").read_text()) == other


@pytest.mark.parametrize("times", ["1", "3"])
def test_what_a_mask_or_object_leaves_out_is_bit_identical(finished, tmp_path, times):
    Image.fromarray(np.where(np.eye(8) > 0, 255, 0).astype(np.uint8)).save(tmp_path / "mask.png")
    _, out = change(finished, "--test", "3", "--mask", str(tmp_path / "mask.png"), "--times", times)
    kept, arrays = ~np.eye(8, dtype=bool), arrays_of(out)
    np.testing.assert_array_equal(arrays["samples"][:, kept], np.broadcast_to(PICTURE[kept], (3, 56, 1)))
    assert (arrays["samples"].std(0)[~kept] > 0).all()
    seen = np.zeros((3, 3, 4), np.uint8)
    seen[:2, :2] = 255
    Image.fromarray(seen).save(tmp_path / "object.png")
    flags = ["--paste", str(tmp_path / "object.png"), "--at", "5,1", "--margin", "1", "--times", times]
    figures, out = change(finished, "--test", "3", *flags, "--strength", "0.4")
    kept, arrays = np.ones((8, 8), bool), arrays_of(out)
    kept[0:4, 4:8] = False  # the two by two pixels that are seen, and one around them
    np.testing.assert_array_equal(arrays["changed"], ~kept)
    assert figures["changed_pixels"] == 16
    np.testing.assert_array_equal(arrays["samples"][:, kept], np.broadcast_to(PICTURE[kept], (3, 48, 1)))
    np.testing.assert_array_equal(arrays["picture"][1:3, 5:7], 1.0)


def test_half_of_an_object_that_is_half_seen():
    picture, half = np.full((1, 4, 4, 1), -1, np.float32), np.full((1, 1, 2), [1.0, 0.5], np.float32)
    result, changed = editing.paste(picture, half, (2, 1), 0)
    assert result[0, 1, 2, 0] == 0 and changed.sum() == 1 and picture.max() == -1


def test_mistakes_in_editing(finished, tmp_path):
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "small.png")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "black.png")
    Image.fromarray(np.zeros((3, 3, 4), np.uint8)).save(tmp_path / "clear.png")
    file = lambda name: str(tmp_path / name)
    for flags, message in (
        ([], "give a picture"),
        (["--test", "1", "--image", file("small.png")], "give a picture"),
        (["--image", file("small.png")], "must have the 8 x 8 pixels of the pictures of this run, got 4 x 4"),
        (["--test", "1", "--strength", "1.2"], r"--strength must lie in \[0, 1\]"),
        (["--test", "1", "--mask", file("small.png")], "8 x 8 pixels, got 4 x 4"),
        (["--test", "1", "--mask", file("black.png")], "lets nothing change"),
        (["--test", "1", "--mask", file("black.png"), "--paste", file("clear.png")], "give one of them"),
        (["--test", "1", "--paste", file("clear.png")], "transparent everywhere"),
        (["--test", "1", "--paste", file("clear.png"), "--at", "7,0"], "--at x,y must lie in 0..5, 0..5"),
        (["--test", "1", "--paste", file("clear.png"), "--at", "here"], "x,y in pixels, such as 4,10, got 'here'"),
        (["--test", "1", "--to", "cat"], "unknown class 'cat'"),
        (["--image", file("black.png"), "--guidance-scale", "2"], "say which with --to"),
        (["--test", "1", "--method", "inversion", "--mask", file("black.png")], "is for --method sdedit"),
        (["--test", "1", "--method", "inversion", "--solver", "ancestral"], "draws nothing and has no history"),
        (["--test", "1", "--count", "0"], "must be at least 1"),
    ):
        with pytest.raises(UserError, match=message):
            edit.main([str(finished), *flags])


def test_an_inversion_refuses_noise(finished):
    model, params, _ = load(finished)
    sampler = dataclasses.replace(model.recipe.sampler, solver=solvers.DDIM(eta=1.0))
    with pytest.raises(UserError, match="draws nothing"):
        editing.edit(model, params, PICTURE[None], method="inversion", strength=0.5, sampler=sampler)
