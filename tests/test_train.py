"""Training runs end to end, on a tiny network: files, resuming, several devices, any iterator of arrays."""

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

from experiments import batches, train
from experiments.logging import read_rows
from experiments.networks import MLP
from experiments.signals import Interrupted

pytest.importorskip("tensorflow_datasets")
ENVIRONMENT = os.environ | {"JAX_PLATFORMS": "cpu"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run on the real digits, from the command line's own entry point."""
    out = tmp_path_factory.mktemp("train") / "run"
    train.main(["digits", "--out", str(out), *tiny.FLAGS])
    return out


def losses(out):
    return [(row["step"], row["loss"]) for row in read_rows(out / "metrics.jsonl")]


def test_a_run_leaves_what_it_promises(finished):
    names = {path.name for path in finished.iterdir()}
    files = {"config.json", "metrics.jsonl", "summary.json", "report.html", "checkpoints", "tensorboard"}
    assert names >= files | {"samples.png", "forward.png", "trajectory.png", "loss.png"}
    assert [step for step, _ in losses(finished)] == list(range(5, 41, 5))
    assert any((finished / "tensorboard").iterdir())
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["steps"] == 40
    assert len(summary["data"]["checksum"]) == 64
    html = (finished / "report.html").read_text()
    assert html.count("data:image/png;base64,") == 4
    assert "http" not in html, "the report is one file"


def test_the_loss_falls():
    recipe = tiny.recipe(steps=400, log_every=20, network=MLP(width=128, depth=2))
    rows = train.run(recipe, tiny_digits(), devices=jax.devices()[:1]).rows
    assert rows[-1]["loss"] < 0.75 * rows[0]["loss"]


def tiny_digits(batch=32):
    from experiments.data import Digits, batches

    return batches(Digits().load().train, batch_size=batch, seed=0)


def test_several_devices_give_the_same_run():
    runs = [train.run(tiny.recipe(steps=10), tiny_digits(), devices=jax.devices()[:n]) for n in (1, 8)]
    np.testing.assert_allclose(*([row["loss"] for row in run.rows] for run in runs), rtol=1e-5)
    one, eight = (jax.device_get(run.state.params) for run in runs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), one, eight)


def test_takes_any_iterator_of_arrays():
    """Without an index, and without labels."""
    result = train.run(tiny.recipe(steps=6, log_every=3), tiny.arrays(6), devices=jax.devices()[:1])
    assert len(result.rows) == 2
    unlabeled = ({"x0": batch["x0"]} for batch in tiny.arrays(6))
    result = train.run(tiny.recipe(steps=6, log_every=3), unlabeled, devices=jax.devices()[:1])
    assert result.model.info.classes == ()


def test_runs_without_data_and_command_line_libraries(tmp_path):
    """TFDS, Grain and tyro are blocked; a run with all its files still works."""
    program = f"""
import sys
for name in ("tensorflow_datasets", "grain", "tyro", "tensorflow"):
    sys.modules[name] = None
sys.path.insert(0, "tests")
import tiny
from experiments import batches, train
train.run(tiny.recipe(steps=6, log_every=3), tiny.arrays(6), {str(tmp_path / "run")!r})
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "report.html").exists()


def test_no_tensorflow_after_a_run(tmp_path):
    program = f"""
import sys
from experiments import batches, train
train.main(["digits", "--out", {str(tmp_path / "run")!r}, *{tiny.FLAGS!r}])
found = [name for name in sys.modules if name.split(".")[0] == "tensorflow"]
assert not found, found
assert "tensorflow_datasets" in sys.modules and "grain" in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("own_state", [True, False])
def test_resumed_in_the_middle_of_a_row_equals_uninterrupted(tmp_path, monkeypatch, own_state):
    """Stopped after 13 of 40 steps (rows are written every 5), then resumed: float-equal losses and parameters."""
    data = (lambda: tiny_digits()) if own_state else (lambda: tiny.arrays(40))
    whole = train.run(tiny.recipe(), data(), tmp_path / "whole", devices=jax.devices()[:1])

    taken = []
    real = batches.numbered
    monkeypatch.setattr(batches, "numbered", lambda batch, step: taken.append(step) or real(batch, step))
    stopping = lambda: len(taken) == 13
    monkeypatch.setattr("experiments.signals.StopRequest.__bool__", lambda self: stopping())
    with pytest.raises(Interrupted, match="after step 13 of 40"):
        train.run(tiny.recipe(), data(), tmp_path / "parts", devices=jax.devices()[:1])
    monkeypatch.undo()
    parts = train.run(tiny.recipe(), data(), tmp_path / "parts", resume=True, devices=jax.devices()[:1])

    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    same = jax.tree.map(lambda a, b: bool((a == b).all()), whole.state, parts.state)
    assert all(jax.tree.leaves(same))


def test_ctrl_c_saves_and_resume_equals_uninterrupted(tmp_path):
    """The same from outside: SIGINT to the running program, exit status 130, then --resume."""
    steps = ["--steps", "2000", "--log-every", "100", "--checkpoint-every", "1000"]
    command = [sys.executable, "-m", "experiments.train", "digits", *tiny.FLAGS, *steps]
    subprocess.run([*command, "--out", tmp_path / "whole"], check=True, env=ENVIRONMENT, capture_output=True)
    process = subprocess.Popen(
        [*command, "--out", tmp_path / "parts"],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics = tmp_path / "parts" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") >= 2) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "--resume" in errors
    assert len(losses(tmp_path / "parts")) < 20
    subprocess.run(
        [*command, "--out", tmp_path / "parts", "--resume"], check=True, env=ENVIRONMENT, capture_output=True
    )
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


def test_a_finished_run_resumes_to_itself(finished):
    before = losses(finished)
    train.main(["digits", "--out", str(finished), *tiny.FLAGS, "--resume"])
    assert losses(finished) == before


def test_profile_writes_a_trace(tmp_path):
    recipe = tiny.recipe(steps=20)
    train.run(recipe, tiny.arrays(20), tmp_path / "run", devices=jax.devices()[:1], profile=True)
    assert list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))


@pytest.mark.slow
def test_every_network_trains_from_the_command_line(tmp_path):
    small = ["--steps", "2", "--sampler.steps", "2", "--batch-size", "16", "--devices", "1"]
    for network, flags in {
        "unet": ["--network.channels", "8", "--network.multipliers", "1", "2", "--network.head-dim", "8"],
        "dit": ["--network.width", "16", "--network.depth", "1", "--network.heads", "2"],
    }.items():
        train.main(["digits", "--out", str(tmp_path / network), "--network", network, *flags, *small])
        assert (tmp_path / network / "samples.png").exists()
