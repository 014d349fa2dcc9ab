"""An autoencoder's run, a diffusion in its latents, samples and figures of both; tiles; one clear line for mistakes."""

import json
import shutil
import sys

import numpy as np
import pytest
import tiny
from PIL import Image

from benchmarks import latent as benchmark
from experiments import cli, codes, evaluate, export, latents, networks, restore, sample, train
from experiments.data import Folder
from experiments.errors import UserError
from experiments.evaluation import BASELINE, RECONSTRUCTED
from experiments.loading import load

pytest.importorskip("tensorflow_datasets")
pytestmark = pytest.mark.usefixtures("compile_quickly")

PROGRAMS = {"train": train, "sample": sample, "evaluate": evaluate, "restore": restore}
STEPS = [
    *("--batch-size", "8", "--steps", "20", "--log-every", "5", "--checkpoint-every", "10", "--devices", "1"),
    *("--data.size", "24", "--data.tile", "16", "--data.tiles", "6"),
]
AUTOENCODER = ["--network.channels", "8", "--network.patch", "1", "--ema", "0.5", *STEPS]
DIFFUSION = [
    *("--network", "mlp", "--network.width", "16", "--network.depth", "1", "--sampler.steps", "3"),
    *("--evaluation.samples", "20", "--evaluation.judges", "1", *STEPS),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("latent")


@pytest.fixture(scope="module")
def data(root):
    """Flags of a folder of ten smooth pictures, of which one is held out."""
    (root / "pictures").mkdir()
    y, x = np.mgrid[:30, :40] / 8
    for i in range(10):
        waves = np.stack([np.sin(x + i) + np.cos(rate * y + i) for rate in (1, 1.3, 2)], -1)
        Image.fromarray(((waves / 4 + 0.5) * 255).astype(np.uint8)).save(root / "pictures" / f"{i}.png")
    return ["--data.folder", str(root / "pictures"), "--data.data-dir", str(root / "tfds")]


@pytest.fixture(scope="module")
def autoencoder(root, data):
    train.main(["autoencoder", *data, *AUTOENCODER, "--out", str(root / "autoencoder")])
    return root / "autoencoder"


@pytest.fixture(scope="module")
def latent(root, data, autoencoder):
    """A run in latents whose autoencoder has gone since."""
    moved = root / "elsewhere"
    shutil.copytree(autoencoder, moved)
    train.main(["latent", *data, *DIFFUSION, "--latents", str(moved), "--out", str(root / "latent")])
    shutil.rmtree(moved)
    return root / "latent"


def run(capsys, program: str, *arguments: object) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a program."""
    with pytest.raises(SystemExit) as stop:
        cli.program(lambda: PROGRAMS[program].main([str(a) for a in arguments]))
    out, err = capsys.readouterr()
    return stop.value.code or 0, out, err


def folder(root, **options):
    options = {"size": 24, "tile": 16, "tiles": 6} | options
    return Folder(folder=str(root / "pictures"), data_dir=str(root / "tfds"), **options)


def test_tiles_are_parts_of_their_pictures_and_the_same_every_time(root, data, tmp_path):
    images = folder(root, size=30).load()
    assert images.shape == (16, 16, 3) and (len(images.train), len(images.test)) == (9 * 6, 6)
    again = Folder(folder=str(root / "pictures"), size=30, tile=16, tiles=6, data_dir=str(tmp_path)).load()
    assert again.checksum == images.checksum
    wholes = {path: np.asarray(Image.open(path)) for path in sorted((root / "pictures").iterdir())}
    windows = {
        path: np.lib.stride_tricks.sliding_window_view(whole, (16, 16), (0, 1)).transpose(0, 1, 3, 4, 2)
        for path, whole in wholes.items()
    }
    within = lambda tile: [path for path, all_of in windows.items() if (all_of == tile).all((2, 3, 4)).any()]
    test = [within(tile) for tile in images.test.images[:]]
    assert {len(found) for found in test} == {1}
    held_out = {found[0] for found in test}
    assert len(held_out) == 1
    assert held_out.isdisjoint(found for tile in images.train.images[:] for found in within(tile))
    assert len(np.unique(images.train.images[:6], axis=0)) > 1


def test_the_autoencoders_run_has_its_pictures_and_figures(autoencoder, capsys):
    assert (autoencoder / "reconstructions.png").exists() and not (autoencoder / "samples.png").exists()
    rows = [json.loads(line) for line in (autoencoder / "metrics.jsonl").read_text().splitlines()]
    assert {"loss", "error", "kl"} <= rows[0].keys() and rows[-1]["error"] < rows[0]["error"]
    code, out, err = run(capsys, "evaluate", autoencoder)
    assert code == 0, err
    assert "bicubic" in out
    result = json.loads((autoencoder / "evaluation.json").read_text())
    assert set(result["sets"]) == {"autoencoder", "bicubic", "PCA", "PCA of squares"}
    assert {name: row["numbers"] for name, row in result["sets"].items()} == {
        "autoencoder": 256,
        "bicubic": 192,
        "PCA": 256,
        "PCA of squares": 256,
    }
    assert (autoencoder / "evaluation.png").exists()
    assert "6 held-out pictures, 256 numbers for 768" in " ".join((autoencoder / "report.html").read_text().split())


def test_latents_have_unit_variance_and_their_statistics_are_kept(root, data, latent):
    config = json.loads((latent / "config.json").read_text())["data"]
    assert config["shape"] == [8, 8, 4] and config["latents"]["shape"] == [16, 16, 3]
    model, _, _ = load(latent)
    z = model.codec.encode(folder(root).load().train.images)
    np.testing.assert_allclose(z.mean((0, 1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(z.std((0, 1, 2)), 1, atol=1e-4)


def test_the_codec_is_the_autoencoder(root, data, autoencoder, latent):
    trained, params, _ = load(autoencoder)
    model, _, _ = load(latent)
    pixels = folder(root).load().test.images[:]
    through = model.codec.decode(model.codec.encode(pixels))
    expected = codes.reconstruct(trained, params, pixels)
    assert np.abs(through.astype(int) - expected).max() <= 1
    frames = model.codec.encode(pixels)[None].repeat(2, 0)
    assert (model.codec.decode(frames)[1] == through).all()


def test_a_run_in_latents_samples_and_is_judged_without_the_autoencoders_run(latent, capsys):
    assert (latent / "samples.png").exists() and (latent / "trajectory.png").exists()
    code, _, err = run(capsys, "sample", latent, "--count", "5")
    assert code == 0, err
    with np.load(latent / "samples" / "DPMpp2M-3-g1-seed0.npz") as arrays:
        assert arrays["samples"].shape == (5, 16, 16, 3) and arrays["samples"].dtype == np.uint8
    code, _, err = run(capsys, "evaluate", latent)
    assert code == 0, err
    assert set(json.loads((latent / "evaluation.json").read_text())["sets"]) == {"model", RECONSTRUCTED, BASELINE}


def test_a_run_in_latents_resumes_without_the_autoencoders_run(root, data, latent, capsys):
    again = root / "again"
    shutil.copytree(latent, again)
    shutil.rmtree(again / "checkpoints" / "20")
    flags = [*data, *DIFFUSION, "--latents", root / "elsewhere", "--out", again, "--resume"]
    code, _, err = run(capsys, "train", "latent", *flags)
    assert code == 0, err
    first, second = ((r / "metrics.jsonl").read_text().splitlines()[-1] for r in (latent, again))
    assert json.loads(first)["loss"] == json.loads(second)["loss"]


def test_a_run_that_was_killed_before_it_kept_the_autoencoder_begins_anew(root, data, autoencoder, latent, capsys):
    killed = root / "killed"
    killed.mkdir()
    shutil.copy(latent / "config.json", killed)
    (killed / latents.FOLDER).mkdir()
    config = json.loads((killed / "config.json").read_text())
    config["recipe"]["latents"] = str(autoencoder)
    (killed / "config.json").write_text(json.dumps(config))
    code, _, err = run(
        capsys, "train", "latent", *data, *DIFFUSION, "--latents", autoencoder, "--out", killed, "--resume"
    )
    assert code == 0, err
    assert load(killed)[2] == 20


def test_labels_stay_with_their_pictures(root, data, autoencoder, tmp_path):
    for i, path in enumerate(sorted((root / "pictures").iterdir())):
        place = tmp_path / "classes" / ("even", "odd")[i % 2] / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    source = Folder(folder=str(tmp_path / "classes"), size=24, tile=16, tiles=2, data_dir=str(tmp_path))
    images = source.load()
    recipe = tiny.recipe(data=source, latents=str(autoencoder))
    info, examples, codec = latents.encoded(recipe, train.DataInfo.of(images), images.train)
    assert info.classes == ("even", "odd") and info.latents == codec.about
    batch = examples.take(np.array([3, 1]), np.zeros(2, int), 0)
    assert batch["cond"].tolist() == images.train.labels[[3, 1]].tolist()
    np.testing.assert_allclose(batch["x0"], codec.encode(images.train.images[[3, 1]]), atol=1e-5)


# Each: program, arguments, what the message must name, what it must advise.
WRONG = {
    "no such run": ("train", ["--latents", "{root}/nowhere"], "nowhere", "experiments.train autoencoder"),
    "no autoencoder": ("train", ["--latents", "{latent}"], "MLP", "experiments.train autoencoder"),
    "size": ("train", ["--data.tile", "15", "--latents", "{autoencoder}"], "15 x 15", "resize them to 16 x 16"),
    "channels": ("train", ["--data.channels", "1", "--latents", "{autoencoder}"], "3 channels", "--data.channels"),
    "flip": ("train", ["--flip", "--latents", "{autoencoder}"], "--flip", "--no-flip"),
    "autoencoder in latents": ("train", ["--network", "autoencoder"], "--latents", "--network autoencoder"),
    "tile larger than the picture": ("train", ["--data.tile", "32"], "tile 32, size 24", "--data.size"),
    "sampling an autoencoder": ("sample", ["{autoencoder}"], "draws no samples", "--latents RUN"),
    "restoring in latents": ("restore", ["{latent}", "--task", "inpaint", "--test", "0"], "latents", "without"),
    "no copy": ("sample", ["{root}/no copy"], "autoencoder, ", "--latents"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_one_message_and_status_two(case, capsys, root, data, autoencoder, latent, tmp_path):
    if not (root / "no copy").exists():
        shutil.copytree(latent, root / "no copy", ignore=shutil.ignore_patterns("autoencoder"))
    program, arguments, named, advised = WRONG[case]
    before = ["latent", *data, *STEPS, "--out", tmp_path / "new"] if program == "train" else []
    places = {"root": root, "autoencoder": autoencoder, "latent": latent}
    code, _, err = run(capsys, program, *before, *(a.format(**places) for a in arguments))
    message = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(message) == 1 and "Traceback" not in err, err
    assert named in message[0] and advised in message[0], message[0]


def test_an_autoencoder_is_exported(autoencoder, tmp_path):
    done = export.export(autoencoder, tmp_path / "a.safetensors")
    assert done["parameters"] == "average" and (tmp_path / "a.safetensors").exists()


def test_a_model_in_latents_needs_its_codec(latent):
    model, _, _ = load(latent)
    with pytest.raises(UserError, match="codec"):
        type(model)(model.recipe, model.info)


def test_codes_of_as_many_numbers_as_the_picture_keep_it(root, data):
    images = folder(root).load()
    train_tiles, test = images.train.images[:], images.test.images[:]
    assert np.abs(codes.pca_of_squares(train_tiles, test, 2, 12).astype(int) - test).max() <= 1
    assert (codes.bicubic(test, 1) == test).all()
    few, more = ((codes.pca(train_tiles, test, n) - test.astype(float)).std() for n in (2, 20))
    assert more < few


class Means:
    """A judge that sees colours."""

    def features(self, tiles):
        return tiles.astype(np.float32).mean((1, 2))

    def accuracy(self, tiles):
        return 0.25


@pytest.mark.slow
def test_the_benchmark_trains_within_budgets_and_judges_all_sets(root, data, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "images_of", lambda *_: Folder(folder=data[1], size=64, tile=64, tiles=8).load())
    monkeypatch.setattr(benchmark, "PROBE", 1)
    small = networks.UNet(channels=8, multipliers=(1,), patch=8, blocks=1, attention=(), head_dim=8)
    monkeypatch.setattr(benchmark, "PIXELS", dict.fromkeys(benchmark.PIXELS, small))
    monkeypatch.setattr(benchmark, "train_judge", lambda *_, **__: Means())
    out = root / "benchmark"
    flags = ["--folder", data[1], "--runs", str(out), "--autoencoder", "1", "--diffusion", "1"]
    files = ["--json", str(root / "latent.json"), "--picture", str(root / "latent.png")]
    monkeypatch.setattr(sys, "argv", ["latent", *flags, *files])
    benchmark.main()
    result = json.loads((root / "latent.json").read_text())
    trained = {*benchmark.NAMES.values(), "autoencoder"}
    assert set(result["training"]) == trained and len(result["sets"]) == 3 + len(benchmark.NAMES)
    assert all(row["steps"] >= 1 for row in result["training"].values())
    assert benchmark.table(result) in capsys.readouterr().out and (root / "latent.png").exists()
