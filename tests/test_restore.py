"""Restoring pictures from the command line with a run that was not trained for it."""

import json

import numpy as np
import pytest
import tiny
from PIL import Image

from experiments import restore, train
from experiments.data import Digits
from experiments.errors import UserError


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "digits"
    flags = ["--network.width", "128", "--network.depth", "2", "--steps", "600", "--ema", "0.98", "--batch-size", "64"]
    train.main(["digits", "--out", str(out), *tiny.FLAGS, *flags, "--log-every", "100", "--sampler.steps", "15"])
    return out


def arrays_of(out):
    with np.load(out.with_suffix(".npz")) as file:
        return dict(file)


def run(finished, *flags):
    figures = restore.main([str(finished), "--count", "4", *flags])
    name = f"{figures['task']}-{figures['method']}-seed0"
    return figures, finished / "restored" / name


@pytest.mark.parametrize("method", ["ddnm", "mmps", "pigdm", "repaint", "replacement"])
def test_what_inpainting_sees_comes_back_bit_for_bit(finished, method):
    figures, out = run(finished, "--task", "inpaint", "--test", "3", "--method", method, "--hole", "4", "--times", "3")
    picture = np.asarray(Digits().load().test[3][0], np.float32) / np.float32(127.5) - 1
    arrays = arrays_of(out)
    seen = np.ones((8, 8), bool)
    seen[2:6, 2:6] = False
    np.testing.assert_array_equal(arrays["samples"][:, seen], np.broadcast_to(picture[seen], (4, 48, 1)))
    assert arrays["spread"][~seen].max() > 0 and not arrays["spread"][seen].any()
    empty = -10 * np.log10(((picture[~seen] - picture[seen].mean()) ** 2).sum() / 64 / 4)
    if method in ("ddnm", "mmps"):
        assert figures["psnr_mean_of_samples"] > empty - 1  # the hole filled with one grey; a small model, few steps
    assert figures["psnr_mean_of_samples"] >= figures["psnr_samples"] - 0.1
    assert json.loads(out.with_suffix(".json").read_text()) == figures
    with Image.open(out.with_suffix(".png")) as sheet:
        assert sheet.size[0] > sheet.size[1]
    assert out.with_name(out.name + "-steps.png").exists()


@pytest.mark.parametrize("task", ["superres", "deblur"])
def test_ddnm_and_mmps_restore_what_was_averaged(finished, task):
    for method in ("ddnm", "mmps"):
        flags = ["--test", "5", "--blur", "0.7", "--method", method]
        figures, out = run(finished, "--task", task, *flags)
        arrays = arrays_of(out)
        assert arrays["measured"].shape == ((4, 4, 1) if task == "superres" else (8, 8, 1))
        assert figures["psnr_mean_of_samples"] > 12
    dps = ["--method", "dps", "--solver", "ancestral", "--scale", "0.5"]
    figures, _ = run(finished, "--task", task, "--test", "5", "--blur", "0.7", *dps)
    assert np.isfinite(figures["psnr_samples"])


def test_pigdm_moves_less_the_more_it_takes_the_data_to_vary(finished):
    """By (V A A' + noise_std^2)^-1 of what is missing, and V grows with sigma_data."""
    flags = ["--test", "5", "--task", "superres", "--method", "pigdm", "--noise-std", "0.5"]
    missing = []
    for sigma_data in ("0.05", "0.5", "5"):
        _, out = run(finished, *flags, "--sigma-data", sigma_data)
        arrays = arrays_of(out)
        pooled = arrays["samples"].reshape(-1, 4, 2, 4, 2, 1).mean((2, 4))
        missing.append(np.sqrt(((pooled - arrays["measured"]) ** 2).mean()))
    assert missing[0] + 0.01 < missing[1] < missing[2] - 0.01


def test_files_are_read_and_checked(finished, tmp_path):
    picture = np.asarray(Digits().load().test[0][0])[:, :, 0]
    Image.fromarray(picture).save(tmp_path / "digit.png")
    Image.fromarray(np.where(np.eye(8) > 0, 255, 0).astype(np.uint8)).save(tmp_path / "hole.png")
    Image.fromarray(picture[:4, :4].copy()).save(tmp_path / "small.png")
    (tmp_path / "text.png").write_text("no picture")
    file = lambda name: str(tmp_path / name)
    figures, out = run(finished, "--image", file("digit.png"), "--mask", file("hole.png"))
    assert "psnr_samples" not in figures
    kept = arrays_of(out)["samples"][:, ~np.eye(8, dtype=bool), 0]
    np.testing.assert_allclose(
        kept, np.broadcast_to(picture[~np.eye(8, dtype=bool)] / 127.5 - 1, kept.shape), atol=1e-6
    )
    for flags, message in (
        (["--image", file("small.png")], "must have the 8 x 8 pixels of what inpaint measures .* got 4 x 4"),
        (["--image", file("digit.png"), "--mask", file("small.png")], "8 x 8 pixels as the picture, got 4 x 4|8 x 8"),
        (["--image", file("digit.png"), "--hole", "8"], "sees none of its 64 elements"),
        (["--image", file("digit.png"), "--hole", "9"], r"in 1\.\.8, got 9"),
        (["--image", file("digit.png"), "--hole", "2", "--mask", file("hole.png")], "say the same"),
        (["--image", file("digit.png"), "--task", "colorize"], "3 channels, this one has 1"),
        (["--image", file("digit.png"), "--task", "superres", "--factor", "3"], "must divide the 8 x 8 pixels"),
        (["--image", file("digit.png"), "--method", "dps", "--solver", "heun"], "calls its denoiser once a step"),
        (["--test", "1", "--task", "superres", "--method", "repaint"], "is for --task inpaint"),
        (["--image", file("text.png")], "no picture that can be read"),
        (["--image", file("none.png")], "no such picture"),
        (["--test", "100000"], r"--test must lie in 0\.\."),
        (["--test", "1", "--sigma-data", "0"], r"--sigma-data must be positive, got 0\.0"),
        (["--test", "1", "--noise-std", "-1"], "--noise-std not negative"),
        ([], "give a picture"),
    ):
        with pytest.raises(UserError, match=message):
            restore.main([str(finished), *flags])
