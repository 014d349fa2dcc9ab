"""Runs that are trained to restore pictures, on the 8 x 8 digits: trained, judged beside baselines, and used."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import evaluate, restore, sample, train
from experiments.conditions import enlarged
from experiments.data import Digits
from experiments.errors import UserError
from experiments.loading import load
from experiments.restoration.baselines import harmonic, neighbours, ridge
from experiments.restoration.evaluation import samples_of, seam
from experiments.restoration.tasks import tasks_of
from jaxdiff.types import is_traced

pytestmark = pytest.mark.usefixtures("compile_quickly")

FLAGS = ["--data", "digits", "--network.patch", "1", "--network.multipliers", "1", "--network.channels", "16"]
FLAGS += ["--steps", "60", "--log-every", "30", "--ema", "0.9", "--batch-size", "32", "--sampler.steps", "4"]


@pytest.fixture(scope="module")
def restorer(tmp_path_factory):
    """One network for both tasks and the class."""
    out = tmp_path_factory.mktemp("runs") / "both"
    both = ["--conditions.label", "--conditions.smaller", "2", "--conditions.holes", "center", "box"]
    both += ["--cond-dropout", "0.1"]
    train.main(["inpaint", "--out", str(out), *FLAGS, *both])
    return out


def test_evaluation_compares_with_baselines_and_a_regressor(restorer, capsys):
    result = evaluate.main([str(restorer), "--pictures", "50", "--regressor", str(restorer)])
    tasks = result["tasks"]
    assert tasks.keys() == {"superres x2", "inpaint the center"}
    answers = tasks["superres x2"]["answers"]
    assert answers.keys() == {
        "cubic interpolation", "ridge regression", "model, once", "regressor", "one sample", "mean of 8"
    }  # fmt: skip
    assert answers["mean of 8"]["psnr"] > answers["one sample"]["psnr"]
    assert answers["regressor"] == answers["model, once"]  # the same run
    assert answers["ridge regression"]["psnr"] > answers["cubic interpolation"]["psnr"]
    hole = tasks["inpaint the center"]["answers"]
    assert hole["mean of 8"]["mse"] < hole["one sample"]["mse"]
    assert 0 < hole["mean of 8"]["crps"] < 1
    assert json.loads((restorer / "evaluation.json").read_text()) == result
    assert (restorer / "restored-superres-x2.png").exists() and (restorer / "restored-inpaint-the-center.png").exists()
    assert "mean of 8" in capsys.readouterr().out


def test_known_pixels_come_back_as_they_are(restorer):
    model, params, _ = load(restorer)
    task = tasks_of(model.recipe.conditions, model.info.shape)[-1]
    pictures = np.asarray(Digits().load().test.images[:6])
    y = np.where(task.hole[None, :, :, None], 0, pictures / np.float32(127.5) - 1)
    drawn, _ = samples_of(model, params, task, y, 3, sampler=model.recipe.sampler)
    assert drawn.shape == (3, 6, 8, 8, 1)
    np.testing.assert_array_equal(drawn[:, :, ~task.hole], np.broadcast_to(pictures[:, ~task.hole], (3, 6, 48, 1)))
    assert (drawn[0] != drawn[1])[:, task.hole].any()


def test_restore_asks_the_run_that_was_trained_for_it(restorer):
    figures = restore.main([str(restorer), "--task", "inpaint", "--test", "3", "--count", "2"])
    assert figures["method"] == "trained" and figures["nfe"] == 4
    with np.load(restorer / "restored" / "inpaint-trained-seed0.npz") as arrays:
        picture = np.asarray(Digits().load().test[3][0], np.float32) / np.float32(127.5) - 1
        seen = np.ones((8, 8), bool)
        seen[2:6, 2:6] = False
        np.testing.assert_array_equal(arrays["samples"][:, seen], np.broadcast_to(picture[seen], (2, 48, 1)))
    smaller = ["--task", "superres", "--test", "3", "--count", "2"]
    assert restore.main([str(restorer), *smaller, "--factor", "2"])["method"] == "trained"
    with pytest.raises(UserError, match="was not trained for what is measured"):
        restore.main([str(restorer), *smaller, "--factor", "4", "--method", "trained"])


@pytest.mark.slow
def test_what_is_learned_of_a_small_picture_is_what_it_lacks(tmp_path):
    """Samples agree with the small picture; and the denoiser at t = 1 with an untrained network is the enlarged one."""
    out = tmp_path / "run"
    few = [*FLAGS, "--conditions.smaller", "2", "--steps", "2", "--cond-dropout", "0.1"]
    train.main(["superres", "--out", str(out), *few])
    for method in ("trained", "ddnm"):
        restore.main([str(out), "--task", "superres", "--test", "3", "--count", "2", "--method", method])
        with np.load(out / "restored" / f"superres-{method}-seed0.npz") as arrays:
            means = arrays["samples"].reshape(2, 4, 2, 4, 2, 1).mean((2, 4))
            np.testing.assert_allclose(means, np.broadcast_to(arrays["measured"], means.shape), atol=1e-5)
    model, params, _ = load(out)
    small = np.asarray(Digits().load().test.images[:4], np.float32).reshape(4, 4, 2, 4, 2, 1).mean((2, 4)) / 127.5 - 1
    image = enlarged(jnp.asarray(small), (8, 8))
    x = jax.random.normal(jax.random.key(0), image.shape)
    zero = jax.tree.map(jnp.zeros_like, params)
    np.testing.assert_allclose(model.denoiser(zero)(x, 1.0, {"image": image}), image, atol=1e-6)


def test_the_same_run_draws_pictures_of_a_class(restorer, tmp_path):
    sample.main(
        [str(restorer), "--classes", "3", "--count", "2", "--guidance-scale", "2", "--out", str(tmp_path / "a.png")]
    )
    assert (tmp_path / "a.png").exists()


def test_a_run_that_was_never_without_is_not_asked_without(tmp_path):
    out = tmp_path / "always"
    told = ["--conditions.label", "--conditions.smaller", "2", "--conditions.holes", "center", "--steps", "2"]
    train.main(["inpaint", "--out", str(out), *FLAGS, *told, "--sampler.guidance-scale", "2"])  # its preview tells all
    assert (out / "restored.png").exists() and not (out / "samples.png").exists()
    with pytest.raises(UserError, match=r"never learned without label and known pixels \(--cond-dropout 0\)"):
        evaluate.main([str(out), "--pictures", "4"])
    with pytest.raises(UserError, match="never learned without image and known pixels"):
        sample.main([str(out)])
    model, params, _ = load(out)
    told = {"label": np.zeros(2, int), "image": np.zeros((2, 8, 8, 1), np.float32)}
    known = np.ones((2, 8, 8), bool), np.zeros((2, 8, 8, 1), np.float32)
    guided = dataclasses.replace(model.recipe.sampler, guidance_scale=2.0)
    with pytest.raises(UserError, match="without a condition, with which guidance compares"):
        model.draw(params, told, 2, sampler=guided, observed=known)


@pytest.mark.slow
def test_embeddings_are_told_and_used(tmp_path):
    rows = np.eye(10, dtype=np.float32)[np.asarray(Digits().load().train.labels)]
    np.save(tmp_path / "rows.npy", rows)
    out = tmp_path / "run"
    told = ["--conditions.no-label", "--conditions.embeddings", str(tmp_path / "rows.npy"), "--conditions.holes"]
    told += ["--cond-dropout", "0.1"]
    train.main(["inpaint", "--out", str(out), *FLAGS, *told, "--steps", "4"])
    model, params, _ = load(out)
    draw = lambda cond: model.draw(params, cond, 4, sampler=model.recipe.sampler)[0]
    one, other = draw({"embedding": rows[:4]}), draw({"embedding": -rows[:4]})
    assert (one != other).any() and model.info.classes == () and not is_traced(one)
    np.testing.assert_array_equal(draw(None), draw({"embedding": np.zeros((4, 10), np.float32)}))


@pytest.mark.slow
def test_a_report_needs_no_picture_that_the_run_cannot_draw(tmp_path):
    rows = np.eye(10, dtype=np.float32)[np.asarray(Digits().load().train.labels)]
    np.save(tmp_path / "rows.npy", rows)
    few = [*FLAGS, "--steps", "2", "--cond-dropout", "0", "--sampler.guidance-scale", "2"]
    told = ["--conditions.no-label", "--conditions.embeddings", str(tmp_path / "rows.npy"), "--conditions.holes"]
    train.main(["inpaint", "--out", str(tmp_path / "rows"), *few, *told])
    assert (tmp_path / "rows" / "restored.png").exists()
    train.main(["inpaint", "--out", str(tmp_path / "label"), *few, "--conditions.label", "--conditions.holes"])
    assert (tmp_path / "label" / "samples.png").exists()


def test_networks_and_data_that_do_not_fit(tmp_path):
    with pytest.raises(UserError, match="labels alone"):
        train.main(["inpaint", "--out", str(tmp_path / "a"), *FLAGS[:2], "--network", "mlp"])
    with pytest.raises(UserError, match="must divide the pictures' 8 x 8 pixels, got 3"):
        train.main(["superres", "--out", str(tmp_path / "b"), *FLAGS, "--conditions.smaller", "3"])


def test_a_seam_is_one_for_the_truth_and_larger_for_a_patch():
    truth = np.random.default_rng(0).uniform(size=(5, 8, 8, 1))
    hole = np.zeros((8, 8), bool)
    hole[2:6, 2:6] = True
    assert seam(truth, truth, hole) == 1
    patched = np.where(hole[None, :, :, None], 3.0, truth)
    assert seam(patched, truth, hole) > 3


def test_baselines_against_what_they_must_find():
    """Ridge finds a linear law, neighbours a repeated example, and the Laplace equation any linear slope."""
    draw = np.random.default_rng(0)
    x, weights = draw.normal(size=(400, 3)), draw.normal(size=(3, 2)) / 20
    y = np.clip(x @ weights + 0.5, 0, 1)
    np.testing.assert_allclose(ridge(x, y, x[:20]), y[:20], atol=0.01)
    twice = np.concatenate([x, x])
    np.testing.assert_allclose(neighbours(twice, np.concatenate([y, y]), x[:20], 2), y[:20], atol=1e-6)
    slope = np.add.outer(np.arange(6) / 20, np.arange(6) / 15)[None, :, :, None]
    hole = np.zeros((6, 6), bool)
    hole[2:4, 1:5] = True
    found = harmonic(np.where(hole[None, :, :, None], 0.0, slope), hole)
    np.testing.assert_allclose(found, slope[:, hole], atol=1e-12)
