"""Two processes train as one does: the same losses and parameters, one writer, one end; each goes on where the other
stopped. They run on one machine, over loopback.
"""

import json
import shutil
import signal
import time

import jax
import numpy as np
import pytest
from processes import started

from experiments import train
from experiments.loading import load
from experiments.logging import read_rows

pytest.importorskip("tensorflow_datasets")

# A small DiT with dropout: every process compiles it anew. A checkpoint where the others go on, and thirty steps more,
# in which a signal arrives.
STEPS, MIDDLE, HEAD = 80, 50, 8
BUDGET = [
    *("--batch-size", "32", "--optimizer.warmup", "5", "--steps", str(STEPS), "--checkpoint-every", str(MIDDLE)),
    *("--log-every", "1", "--sampler.steps", "3"),
]
SMALL = [
    *("--network", "dit", "--network.width", str(2 * HEAD), "--network.depth", "1", "--network.heads", "2"),
    *("--network.dropout", "0.1", *BUDGET),
]
UNET = ["--network.channels", "8", "--network.head-dim", str(HEAD), *BUDGET]
MLP = [
    *("--network", "mlp", "--network.width", "32", "--network.depth", "1", "--batch-size", "32"),
    *("--log-every", "5", "--sampler.steps", "2"),
]
CLOSE = 1e-5


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run of one process with one device."""
    out = tmp_path_factory.mktemp("alone") / "run"
    train.main(["digits", "--out", str(out), *SMALL, "--devices", "1"])
    return out


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """`(run, exit statuses, processes)` of two processes, of which one was asked to end after the middle."""
    folder = tmp_path_factory.mktemp("both")
    with started(folder, "--out", str(folder / "run"), *SMALL) as processes:
        processes.until(lambda: rows(folder / "run") >= MIDDLE)
        processes.running[1].send_signal(signal.SIGTERM)
        return folder / "run", processes.wait(), processes


def rows(out) -> int:
    path = out / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def losses(out, first=1, last=STEPS):
    found = read_rows(out / "metrics.jsonl")
    assert [row["step"] for row in found] == list(range(1, len(found) + 1))
    return np.array([row["loss"] for row in found[first - 1 : last]])


def assert_same_run(out, reference, first):
    """Losses from `first` on, and each averaged array at the end, as one process on one device restores them."""
    np.testing.assert_allclose(losses(out, first), losses(reference, first), rtol=CLOSE)
    ours, expected = (jax.tree_util.tree_leaves_with_path(load(run)[1]) for run in (out, reference))
    for (path, a), (_, b) in zip(ours, expected, strict=True):
        assert len(a.devices()) == 1
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        if jax.tree_util.keystr(path).endswith("['qkv']['bias']"):
            # Softmax does not see the keys' bias. Its gradient is rounding, which Adam makes into steps.
            a, b = (np.delete(bias.reshape(-1, 3, HEAD), 1, axis=1) for bias in (a, b))
        assert np.linalg.norm(a - b) < CLOSE * np.linalg.norm(b), jax.tree_util.keystr(path)


def test_two_processes_give_the_losses_of_one(both, alone):
    np.testing.assert_allclose(losses(both[0], last=MIDDLE), losses(alone, last=MIDDLE), rtol=CLOSE)


def test_a_signal_to_one_process_stops_both(both):
    out, statuses, processes = both
    assert statuses == [75, 75], [processes.said(i)[-2000:] for i in (0, 1)]
    stopped = max(int(path.name) for path in (out / "checkpoints").iterdir())
    assert MIDDLE <= stopped < STEPS
    for i in (0, 1):
        assert f"stopped after step {stopped} of {STEPS}, saved; go on with --resume" in processes.said(i)


def test_only_process_0_writes(both):
    out, _, processes = both
    assert len(losses(out)) == rows(out)
    assert len(list((out / "tensorboard").iterdir())) == 1
    assert "step/s" in processes.said(0) and "step/s" not in processes.said(1)


@pytest.mark.slow
def test_one_process_goes_on_where_two_stopped(both, alone, tmp_path):
    out = shutil.copytree(both[0], tmp_path / "run")
    train.main(["digits", "--out", str(out), *SMALL, "--devices", "1", "--resume"])
    assert_same_run(out, alone, MIDDLE + 1)


@pytest.mark.slow
def test_two_processes_go_on_where_one_stopped(alone, tmp_path):
    """With two devices each."""
    out = shutil.copytree(alone, tmp_path / "run")
    shutil.rmtree(out / "checkpoints" / str(STEPS))
    for path in [*out.glob("*.png"), out / "summary.json", out / "report.html"]:
        path.unlink()
    with started(tmp_path / "logs", "--out", str(out), *SMALL, "--resume", devices=2) as processes:
        assert processes.wait() == [0, 0], [processes.said(i)[-2000:] for i in (0, 1)]
    assert f"resumed at step {MIDDLE}" in processes.said(0)
    assert_same_run(out, alone, MIDDLE + 1)
    assert {path.name for path in out.glob("*.png")} == {path.name for path in alone.glob("*.png")}
    assert json.loads((out / "summary.json").read_text())["hardware"].startswith("4 x cpu")
    assert "report.html" in processes.said(0) and "report.html" not in processes.said(1)


def test_a_mistake_ends_all_processes(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "something").touch()
    with started(tmp_path / "logs", "--out", str(tmp_path / "run"), *SMALL) as processes:
        assert processes.wait() == [2, 2]
    assert "already holds a run" in processes.said(0)
    assert "process 0 could not go on; its message says why" in processes.said(1)


@pytest.mark.slow
@pytest.mark.parametrize("flags", [SMALL, UNET], ids=["dit", "unet"])
def test_fsdp_over_two_processes(flags, tmp_path):
    train.main(["digits", "--out", str(tmp_path / "alone"), *flags, "--devices", "1"])
    with started(tmp_path / "logs", "--out", str(tmp_path / "run"), *flags, "--split.fsdp", "8") as processes:
        assert processes.wait() == [0, 0], [processes.said(i)[-2000:] for i in (0, 1)]
    assert_same_run(tmp_path / "run", tmp_path / "alone", 1)


@pytest.mark.slow
@pytest.mark.parametrize("process", [0, 1])
def test_what_fails_in_one_process_ends_all(process, tmp_path):
    """Data that only one of them cannot prepare."""
    broken = lambda i: ["--data.data-dir", "/dev/null/data"] if i == process else []
    with started(tmp_path, "--out", str(tmp_path / "run"), *MLP, own=broken) as processes:
        statuses = processes.wait()
    assert statuses[1 - process] == 2 and statuses[process] != 0
    assert f"process {process} could not go on" in processes.said(1 - process)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_process_that_dies_ends_the_other(killed, tmp_path):
    """At once in a collective, after JAX's 100 seconds without a heartbeat elsewhere."""
    with started(tmp_path, "--out", str(tmp_path / "run"), *MLP, "--steps", "1000000") as processes:
        processes.until(lambda: rows(tmp_path / "run") >= 2)
        processes.running[killed].kill()
        began = time.monotonic()
        statuses = processes.wait()
    assert statuses[killed] == -signal.SIGKILL
    assert statuses[1 - killed] not in (0, 75)
    assert time.monotonic() - began < 200
