"""The command line: help, overrides, and one clear line for every mistake."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tiny
from PIL import Image

from experiments import cli, config, evaluate, recipes, sample, train
from experiments.cli import CHOICES, train_arguments
from experiments.errors import UserError
from experiments.evaluation import BASELINE
from jaxdiff import predictions, schedules, solvers, times

pytest.importorskip("tensorflow_datasets")
PROGRAMS = {"train": train, "sample": sample, "evaluate": evaluate}


def run(capsys, program: str, *arguments: object) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a program."""
    with pytest.raises(SystemExit) as stop:
        cli.program(lambda: PROGRAMS[program].main([str(a) for a in arguments]))
    out, err = capsys.readouterr()
    return stop.value.code or 0, out, err


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of fifty pictures in two classes, and room for spoiled copies of it."""
    root = tmp_path_factory.mktemp("cli") / "pictures"
    rng = np.random.default_rng(0)
    for i in range(50):
        place = root / ("red" if i % 2 else "blue")
        place.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 99, (20 + i % 7, 24, 3), np.uint8)
        pixels[..., 0 if i % 2 else 2] += 100
        Image.fromarray(pixels).save(place / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("cli") / "run"
    train.main(["digits", "--out", str(out), *tiny.FLAGS])
    return out


@pytest.fixture(scope="module")
def broken(finished, tmp_path_factory):
    """Directories that are not, or not quite, a finished run."""
    root = tmp_path_factory.mktemp("broken")
    (root / "empty").mkdir()
    for name in ("no checkpoint", "unfinished", "damaged", "garbled", "unknown field"):
        shutil.copytree(finished, root / name)
    shutil.rmtree(root / "no checkpoint" / "checkpoints")
    shutil.rmtree(root / "unfinished" / "checkpoints" / "40")
    for file in (root / "damaged" / "checkpoints" / "40" / "state").rglob("d/*"):
        if file.is_file():
            file.write_bytes(bytes(byte ^ 0x5A for byte in file.read_bytes()))
    (root / "garbled" / "config.json").write_text("{")
    config = json.loads((finished / "config.json").read_text())
    config["recipe"]["colour"] = "red"
    (root / "unknown field" / "config.json").write_text(json.dumps(config))
    (root / "other files").mkdir()
    (root / "other files" / "thesis.txt").write_text("precious")
    return root


# Each: program, arguments, what the message must name, what it must advise; {run}, {broken} and so on are directories.
WRONG = {
    "no recipe": ("train", [], "recipe", "digits"),
    "unknown recipe": ("train", ["digitz"], "'digitz'", "did you mean 'digits'"),
    "unknown flag": ("train", ["digits", "--stepz", "3"], "--stepz", "--steps"),
    "unknown nested flag": ("train", ["digits", "--network.channel", "3"], "--network.channel", "--network.channels"),
    "not a number": ("train", ["digits", "--steps", "many"], "many", "INT"),
    "unknown network": ("train", ["digits", "--network", "unett"], "'unett'", "did you mean unet"),
    "unknown schedule": ("train", ["digits", "--process.schedule", "cosin"], "'cosin'", "did you mean cosine"),
    "unknown prediction": ("train", ["digits", "--process.prediction", "noise"], "'noise'", "eps"),
    "eps without signal": ("train", ["digits", "--process.prediction", "eps"], "eps", "use predictions.v()"),
    "flag of another network": (
        "train",
        ["digits", "--network", "mlp", "--network.channels", "3"],
        "channels",
        "--help",
    ),
    "heads that do not divide the width": (
        "train",
        ["digits", "--network", "dit", "--network.heads", "5", "--out", "{new}"],
        "5",
        "heads",
    ),
    "patch of no size": (
        "train",
        ["digits", "--network", "dit", "--network.patch", "0", "--out", "{new}"],
        "0",
        "patch",
    ),
    "conditions of another network": (
        "train",
        ["digits", "--network", "mlp", "--conditions.holes", "center", "--out", "{new}"],
        "labels alone",
        "--network unet",
    ),
    "devices do not divide": (
        "train",
        ["digits", "--batch-size", "30", "--devices", "4", "--out", "{new}"],
        "30",
        "--batch-size 32",
    ),
    "more devices than there are": ("train", ["digits", "--devices", "99", "--out", "{new}"], "99", "1 to 8"),
    "no steps": ("train", ["digits", "--steps", "0", "--out", "{new}"], "0", "--steps"),
    "existing run": ("train", ["digits", *tiny.FLAGS, "--out", "{run}"], "{run}", "--resume"),
    "overwriting other files": (
        "train",
        ["digits", "--out", "{broken}/other files", "--overwrite"],
        "other files",
        "--out",
    ),
    "resume and overwrite": (
        "train",
        ["digits", *tiny.FLAGS, "--out", "{run}", "--resume", "--overwrite"],
        "--overwrite",
        "one",
    ),
    "resume with other settings": (
        "train",
        ["digits", *tiny.FLAGS, "--seed", "7", "--out", "{run}", "--resume"],
        "seed: 0 -> 7",
        "--out",
    ),
    "no such folder": (
        "train",
        ["folder", "--data.folder", "{pictures}/nowhere", "--out", "{new}"],
        "nowhere",
        "--data.folder",
    ),
    "unreadable picture": (
        "train",
        ["folder", "--data.folder", "{spoiled}", "--out", "{new}"],
        "spoiled.png",
        "remove",
    ),
    "unknown dataset": ("train", ["tfds", "--data.name", "mnnist", "--out", "{new}"], "mnnist", "mnist"),
    "raw files missing": (
        "train",
        ["mnist", "--data.raw-dir", "{pictures}", "--data.data-dir", "{new}"],
        "train-images",
        "--data.raw-dir",
    ),
    "no run": ("sample", [], "run directory", "RUN"),
    "no such run": ("sample", ["{broken}/nothing"], "nothing", "experiments.train"),
    "empty directory": ("evaluate", ["{broken}/empty"], "config.json", "experiments.train"),
    "run without checkpoint": ("sample", ["{broken}/no checkpoint"], "no checkpoint", "--resume"),
    "unfinished run": ("evaluate", ["{broken}/unfinished"], "step 20 of 40", "--resume"),
    "unfinished run, sample": ("sample", ["{broken}/unfinished"], "step 20 of 40", "--unfinished"),
    "damaged checkpoint": ("sample", ["{broken}/damaged"], "checkpoint 40", "[20]"),
    "no such checkpoint": ("sample", ["{run}", "--step", "33"], "33", "[20, 40]"),
    "garbled configuration": ("sample", ["{broken}/garbled"], "config.json", "anew"),
    "configuration of another version": ("sample", ["{broken}/unknown field"], "colour", "another version"),
    "unknown class": ("sample", ["{run}", "--classes", "3,eleven"], "'eleven'", "0, 1, 2"),
    "class out of range": ("sample", ["{run}", "--classes", "10"], "'10'", "0 to 9"),
    "unknown solver": ("sample", ["{run}", "--solver", "dpm"], "'dpm'", "dpmpp2m"),
    "no samples": ("sample", ["{run}", "--count", "0"], "0", "at least 1"),
    "too many samples": ("evaluate", ["{run}", "--samples", "5000"], "5000", "1438"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_one_message_and_status_two(case, capsys, finished, broken, folder, tmp_path):
    spoiled = tmp_path / "spoiled"
    shutil.copytree(folder, spoiled)
    (spoiled / "red" / "spoiled.png").write_bytes(b"not a picture")
    places = {"run": finished, "broken": broken, "pictures": folder, "spoiled": spoiled, "new": tmp_path / "new"}
    program, arguments, named, advised = WRONG[case]
    fill = lambda text: text.format(**places)
    code, _, err = run(capsys, program, *map(fill, arguments))
    message = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 2, err
    assert len(message) == 1, err
    assert "Traceback" not in err
    assert fill(named) in message[0], message[0]
    assert advised in message[0], message[0]
    assert (broken / "other files" / "thesis.txt").exists()


def test_from_a_real_shell():
    done = subprocess.run([sys.executable, "-m", "experiments.train", "digitz"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown recipe 'digitz'")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_names_the_choices(program, capsys):
    code, out, _ = run(capsys, program, *(["digits"] if program == "train" else []), "--help")
    assert code == 0
    place = "--sampler.solver" if program == "train" else "--solver"
    text = " ".join(out.split()).replace(", ", ",")
    assert f"{place} {{{','.join(CHOICES['sampler.solver'])}}}" in text
    assert {"ancestral", "ddim", "dpmpp2m", "heun", "unipc"} <= CHOICES["sampler.solver"].keys()
    assert "--guidance-scale" in out or "--sampler.guidance-scale" in out


def test_numbers_of_a_solver_have_their_types():
    _, recipe = train_arguments(["digits", "--sampler.solver", "unipc", "--sampler.solver.p", "3"])
    assert recipe.sampler.solver == solvers.UniPC(p=3) and type(recipe.sampler.solver.p) is int
    _, recipe = train_arguments(["digits", "--sampler.solver", "dpmpp2m", "--sampler.solver.lower-final"])
    assert recipe.sampler.solver == solvers.DPMpp2M(lower_final=True)
    with pytest.raises(UserError, match="1 to 4, got 9"):
        train_arguments(["digits", "--sampler.solver", "deis", "--sampler.solver.order", "9"])


@pytest.mark.parametrize("name", CHOICES["sampler.solver"])
def test_every_solver_that_can_be_chosen_can_be_stored(name):
    _, recipe = train_arguments(["digits", "--sampler.solver", name])
    assert config.decode(config.encode(recipe)).sampler.solver == recipe.sampler.solver


def test_train_help_lists_the_recipes(capsys):
    code, out, _ = run(capsys, "train", "--help")
    assert code == 0
    assert all(name in out for name in recipes.names())


def test_overrides_reach_the_objects():
    flags = [
        "--network",
        "dit",
        "--network.depth",
        "3",
        "--process.schedule=linear_beta",
        "--process.prediction",
        "eps",
    ]
    flags += [
        "--process.schedule.beta-max",
        "15",
        "--sampler.solver",
        "ddim",
        "--sampler.solver.eta",
        "0.5",
        "--steps",
        "7",
    ]
    arguments, recipe = train_arguments(["digits", *flags, "--out", "somewhere"])
    assert arguments.out == "somewhere"
    assert recipe.network.depth == 3
    assert recipe.process.schedule == schedules.LinearBeta(beta_max=15.0)
    assert recipe.process.prediction == predictions.eps()
    assert recipe.sampler.solver == solvers.DDIM(eta=0.5)
    assert recipe.steps == 7


def test_edm_times_follow_the_schedule():
    _, recipe = train_arguments(
        [
            "digits",
            "--times",
            "edm",
            "--times.std",
            "1.0",
            "--process.schedule",
            "edm",
            "--process.schedule.sigma-max",
            "40",
        ]
    )
    assert recipe.times == times.edm(schedule=schedules.EDM(sigma_max=40.0), std=1.0)


def test_every_choice_has_an_object():
    recipe = recipes.get("digits")
    for names in CHOICES.values():
        for make in names.values():
            assert make(recipe) is not None


def test_sample_and_evaluate_a_run(finished, capsys):
    code, out, err = run(
        capsys, "sample", finished, "--classes", "3,5", "--count", "4", "--solver", "heun", "--steps", "3"
    )
    assert code == 0, err
    assert "5 network evaluations" in out
    with np.load(finished / "samples" / "Heun-3-g1-seed0.npz", allow_pickle=False) as arrays:
        assert arrays["samples"].shape == (8, 8, 8, 1)
        assert arrays["labels"].tolist() == [3] * 4 + [5] * 4
    code, out, err = run(capsys, "evaluate", finished)
    assert code == 0, err
    result = json.loads((finished / "evaluation.json").read_text())
    assert result["about"]["samples"] == 200
    assert set(result["sets"]) == {"model", "Gaussian per class"}
    assert "Evaluation" in (finished / "report.html").read_text()


def test_guidance_doubles_the_evaluations_and_samples_do_not_depend_on_the_batch(finished, capsys, tmp_path):
    files = []
    for size in (3, 512):
        out = tmp_path / f"{size}.png"
        flags = ["--guidance-scale", "2", "--count", "2", "--batch-size", str(size), "--out", out]
        code, text, err = run(capsys, "sample", finished, *flags)
        assert code == 0, err
        assert "6 network evaluations" in text
        files.append(np.load(out.with_suffix(".npz"))["samples"].astype(int))
    assert np.abs(files[0] - files[1]).max() <= 1  # rounding to pixels may differ by one


def test_a_folder_of_fifty_pictures_trains(folder, tmp_path, capsys):
    flags = ["--data.folder", folder, "--data.size", "8", "--data.data-dir", tmp_path / "data", *tiny.FLAGS]
    code, _, err = run(capsys, "train", "folder", *flags, "--out", tmp_path / "run", "--batch-size", "16")
    assert code == 0, err
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["data"]["classes"] == ["blue", "red"]
    code, _, err = run(capsys, "sample", tmp_path / "run", "--classes", "red", "--count", "3")
    assert code == 0, err


def test_a_tfds_data_set_that_the_code_never_names_trains_by_name(tmp_path, capsys):
    from test_data_tfds import StrangeTiles

    StrangeTiles(data_dir=tmp_path / "data", file_format="array_record").download_and_prepare()
    flags = ["--data.name", "strange_tiles", "--data.data-dir", tmp_path / "data", "--data.size", "8", *tiny.FLAGS]
    code, _, err = run(capsys, "train", "tfds", *flags, "--batch-size", "16", "--out", tmp_path / "run")
    assert code == 0, err
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["data"]["name"] == "strange_tiles"
    assert config["data"]["classes"] == ["left", "right"]


@pytest.mark.slow
def test_the_demo_reaches_its_figures(tmp_path, monkeypatch, capsys):
    """Train, sample, evaluate on the digits; the figures that one set of samples must reach together."""
    from experiments import demo

    monkeypatch.chdir(tmp_path)
    demo.main(["--devices", "1"])
    result = json.loads((tmp_path / demo.RUN / "evaluation.json").read_text())
    model, gaussian = (result["sets"][name] for name in ("model", BASELINE))
    assert result["about"]["samples"] == model["count"] == 1438
    assert model["class_consistency"] >= 0.95
    assert model["frechet"] <= 2.0
    assert model["frechet"] <= 0.75 * gaussian["frechet"]
    assert model["memorisation_ratio"] >= 0.8
    assert "--- seconds: train" in capsys.readouterr().out
