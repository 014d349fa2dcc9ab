"""Training at scale on forced CPU devices: layouts, dispatch, accumulation, averages, and what stops a run."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file

from experiments import batches, sample, train
from experiments.errors import UserError
from experiments.export import export, nested
from experiments.loading import load, read_config
from experiments.logging import Diverged, read_rows
from experiments.model import Model
from experiments.networks import DiT
from experiments.placement import Split
from experiments.recipe import Optimizer
from experiments.signals import Interrupted
from experiments.stream import Stream, Watch

ONE = jax.devices()[:1]


def losses(out):
    return [(row["step"], row["loss"]) for row in read_rows(out / "metrics.jsonl")]


def close(a, b, rtol=1e-4, atol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=rtol, atol=atol), a, b)


@pytest.fixture(scope="module")
def plain():
    return train.run(tiny.recipe(), tiny.arrays(40), devices=ONE)


@pytest.mark.parametrize("split", [Split(fsdp=8), Split(fsdp=2, tensor=2)], ids=["fsdp", "all three"])
def test_a_mesh_gives_the_same_run(plain, split):
    run = train.run(tiny.recipe(), tiny.arrays(40), split=split)
    np.testing.assert_allclose([r["loss"] for r in run.rows], [r["loss"] for r in plain.rows], rtol=1e-5)
    close(run.state.params, plain.state.params)
    assert any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(run.state.opt_state))


def test_several_steps_in_one_dispatch_and_parts_give_the_same_run(plain, tmp_path):
    recipe = tiny.recipe(steps_per_dispatch=5, accumulate=4)
    run = train.run(recipe, tiny.arrays(40), tmp_path / "run", devices=ONE)
    np.testing.assert_allclose([r["loss"] for r in run.rows], [r["loss"] for r in plain.rows], rtol=1e-5)
    close(run.state.params, plain.state.params)
    assert [r["learning_rate"] for r in run.rows] == pytest.approx([r["learning_rate"] for r in plain.rows])
    assert losses(tmp_path / "run")[-1][0] == 40


def test_a_run_goes_on_in_another_layout(plain, tmp_path, monkeypatch):
    """Begun on one device, resumed on eight by pmap, then partitioned over eight: the checkpoint fits all of them."""
    seen = []
    real = batches.numbered
    monkeypatch.setattr(batches, "numbered", lambda batch, step: seen.append(step) or real(batch, step))
    monkeypatch.setattr("experiments.signals.StopRequest.__bool__", lambda self: seen[-1] in (9, 21))
    stages = ({"devices": ONE}, {"resume": True}, {"resume": True, "split": Split(fsdp=8)})
    for stage in stages[:2]:
        with pytest.raises(Interrupted):
            train.run(tiny.recipe(), tiny.arrays(40), tmp_path, **stage)
    run = train.run(tiny.recipe(), tiny.arrays(40), tmp_path, **stages[2])
    np.testing.assert_allclose([r["loss"] for r in run.rows], [r["loss"] for r in plain.rows], rtol=1e-5)
    close(run.state.params, plain.state.params)


def test_rows_say_how_long_the_device_waited_for_data():
    def slow():
        for batch in tiny.arrays(10):
            time.sleep(0.05)
            yield batch

    fast = train.run(tiny.recipe(steps=10), tiny.arrays(10), devices=ONE).rows
    waiting = train.run(tiny.recipe(steps=10), slow(), devices=ONE).rows
    assert fast[-1]["data_wait"] < 0.5 < waiting[-1]["data_wait"] <= 1


def test_a_stalled_pipeline_is_said(capsys):
    def stalls():
        yield {"x0": np.zeros((2, 1))}
        time.sleep(0.6)
        yield {"x0": np.zeros((2, 1))}

    stream = Stream(stalls())
    with Watch(stream, seconds=0.1):
        next(stream), next(stream)
        time.sleep(0.2)
    messages = capsys.readouterr().err.strip().splitlines()
    assert 2 <= len(messages) <= 3 and "no batch for" in messages[0]
    assert stream.waited > 0.5


def poisoned(steps, at):
    for i, batch in enumerate(tiny.arrays(steps)):
        yield {**batch, "x0": batch["x0"] * np.float32("nan")} if i == at else batch


@pytest.mark.parametrize("dispatch", [1, 5])
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, dispatch):
    """It names the step, the metrics before it and the last good checkpoint, which is left as it was."""
    recipe = tiny.recipe(steps_per_dispatch=dispatch)
    message = (
        r"loss and grad_norm of step 28 not finite; the metrics before it: error 0\..*learning_rate.*loss 0\..*; "
        "the checkpoint of step 20 holds good parameters"
    )
    with pytest.raises(Diverged, match=message):
        train.run(recipe, poisoned(40, 27), tmp_path, devices=ONE)
    _, params, step = load(tmp_path, unfinished=True)
    assert step == 20 and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
    assert losses(tmp_path)[-1][0] == 25


def test_a_bad_step_before_any_checkpoint_says_so(tmp_path):
    with pytest.raises(Diverged, match="step 1 not finite; the metrics before it: none; there is no checkpoint"):
        train.run(tiny.recipe(), poisoned(40, 0), tmp_path, devices=ONE)


def test_skipped_steps_are_counted_and_change_nothing(tmp_path):
    recipe = tiny.recipe(nonfinite="skip")
    run = train.run(recipe, poisoned(40, 27), tmp_path, devices=ONE)
    assert run.summary["skipped"] == 1
    assert [row["skipped"] for row in run.rows] == [0, 0, 0, 0, 0, 1, 0, 0]
    assert all(np.isfinite(row["loss"]) for row in run.rows)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run.state))
    assert int(run.state.step) == 40
    assert int(run.state.opt_state[1][0].count) == 39  # the learning rate counts updates
    unharmed = train.run(recipe, tiny.arrays(40), devices=ONE)
    np.testing.assert_array_equal([r["loss"] for r in run.rows][:5], [r["loss"] for r in unharmed.rows][:5])


def test_averages_of_other_lengths_come_from_snapshots(tmp_path, capsys):
    """An average that was not kept equals the one that another run kept, to 1e-3."""
    fast = Optimizer(learning_rate=2e-2, warmup=5)
    recipe = tiny.recipe(steps=320, log_every=80, checkpoint_every=160, averages=(0.05, 0.1), optimizer=fast)
    train.run(recipe, tiny.arrays(320), tmp_path / "run", devices=ONE)
    kept = train.run(dataclasses.replace(recipe, averages=(0.07,)), tiny.arrays(320), devices=ONE).state.averages[
        "0.07"
    ]
    _, params, step = load(tmp_path / "run", sigma_rel=0.07)
    assert step == 320
    flat = lambda tree: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
    error = lambda tree: np.linalg.norm(flat(tree) - flat(kept)) / np.linalg.norm(flat(kept))
    assert error(params) < 1e-3
    assert error(load(tmp_path / "run", sigma_rel=0.1)[1]) > 10 * error(params)  # a kept one of another length
    assert load(tmp_path / "run", sigma_rel=0.1, step=160)[2] == 160
    sample.main([str(tmp_path / "run"), "--sigma-rel", "0.07", "--count", "1", "--steps", "2"])
    assert "samples of step 320" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("averages", "width", "step", "message"),
    [
        ((), 0.07, None, "needs a run with snapshots"),
        ((0.05, 0.1), 0.5, None, "--sigma-rel: "),
        ((0.05, 0.1), 0.07, 3, "needs a snapshot at step 3"),
        ((0.1,), 0.01, None, "give no average of length 0.01"),
    ],
)
def test_averages_that_cannot_be_made_are_refused(tmp_path, averages, width, step, message):
    train.run(tiny.recipe(averages=averages), tiny.arrays(40), tmp_path, devices=ONE)
    with pytest.raises(UserError, match=message):
        load(tmp_path, sigma_rel=width, step=step)


def test_samples_do_not_depend_on_the_devices(plain):
    """23 of them over 8 devices, 16 at once, with and without guidance."""
    labels = np.arange(23) % 10
    for scale in (1.0, 2.0):
        sampler = dataclasses.replace(plain.model.recipe.sampler, guidance_scale=scale)
        draw = lambda **k: plain.model.draw(plain.state.ema, labels, 23, sampler=sampler, **k)
        one, nfe = draw()
        many, again = draw(devices=jax.devices(), batch_size=12)
        assert nfe == again
        assert np.abs(one.astype(int) - many.astype(int)).max() <= 1  # rounding of a pixel
        path, _ = draw(devices=jax.devices(), trajectory=True)
        assert path.shape == (4, *one.shape)


def test_sigterm_saves_and_asks_to_be_started_again(tmp_path):
    command = [sys.executable, "-m", "experiments.train", "digits", *tiny.FLAGS, "--out", str(tmp_path)]
    command += ["--steps", "20000", "--checkpoint-every", "10000"]
    process = subprocess.Popen(command, env=os.environ | {"JAX_PLATFORMS": "cpu"}, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    metrics = tmp_path / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text().count("\n") >= 2) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 75, errors
    assert "saved; go on with --resume" in errors
    _, _, step = load(tmp_path, unfinished=True)
    assert step == int(errors.split("stopped after step ")[1].split()[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps_per_dispatch": 3}, "must divide --steps 40, got 3"),
        ({"accumulate": 0}, "--accumulate must be at least 1"),
        ({"averages": (0.5,)}, "0.5"),
    ],
)
def test_recipes_that_cannot_run_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny.recipe(**changes)


@pytest.mark.parametrize(
    ("recipe", "options", "message"),
    [
        (tiny.recipe(accumulate=3), {"devices": ONE}, "--accumulate 3 must divide the 32 examples of each device"),
        (
            tiny.recipe(accumulate=8),
            {},
            "--accumulate 8 must divide the 4 examples of each device; use --batch-size 64",
        ),
        (tiny.recipe(), {"split": Split(fsdp=3)}, "--split.fsdp and --split.tensor: .*must divide the 8 devices"),
        (tiny.recipe(batch_size=36), {}, "8 devices must divide the batch, got a batch of 36; use --batch-size 40"),
    ],
)
def test_layouts_that_do_not_fit_are_refused(recipe, options, message):
    with pytest.raises(UserError, match=message):
        train.run(recipe, tiny.arrays(1, batch=recipe.batch_size), **options)


def test_the_weight_of_each_noise_level_is_learned_beside_the_network(tmp_path):
    run = train.run(tiny.recipe(learned_weighting=True), tiny.arrays(40), tmp_path / "run", devices=ONE)
    assert np.abs(run.state.params["uncertainty"]["weight"]).max() > 0
    model, params, _ = load(tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, params, run.state.ema["network"])
    export(tmp_path / "run", tmp_path / "out.safetensors")
    close(nested(load_file(tmp_path / "out.safetensors")), params, rtol=0)
    assert model.draw(params, None, 2, sampler=model.recipe.sampler)[0].shape == (2, 8, 8, 1)


@pytest.mark.slow
def test_bfloat16_keeps_float32_parameters_and_remat_changes_nothing():
    small = DiT(width=32, depth=1, heads=2, patch=4)
    run = lambda network: train.run(tiny.recipe(steps=10, network=network), tiny.arrays(10), devices=ONE)
    plain, again = run(small), run(dataclasses.replace(small, remat=True))
    half = run(dataclasses.replace(small, dtype="bfloat16"))
    np.testing.assert_allclose([r["loss"] for r in again.rows], [r["loss"] for r in plain.rows], rtol=1e-5)
    assert {leaf.dtype for leaf in jax.tree.leaves(half.state.params)} == {np.dtype("float32")}
    np.testing.assert_allclose([r["loss"] for r in half.rows], [r["loss"] for r in plain.rows], rtol=0.02)


def test_the_configuration_names_the_library(tmp_path):
    train.run(tiny.recipe(steps=5), tiny.arrays(5), tmp_path, devices=ONE)
    recipe, info = read_config(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["version"]
    assert Model(recipe, info).fresh_state().averages == {}
