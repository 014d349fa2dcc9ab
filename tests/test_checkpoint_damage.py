"""Checkpoints that something happens to: damaged files, a full disk, another recipe."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.checkpoint import Checkpoints
from experiments.errors import UserError


def flip_everything(data):
    return bytes(byte ^ 0xFF for byte in data)


def flip_one_bit(data):
    data[len(data) // 2] ^= 1
    return bytes(data)


def cut(data):
    return bytes(data[: len(data) // 2])


def arrays(folder):
    """The largest file: the arrays."""
    return max((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)


FILES = {
    "arrays": arrays,
    "structure": lambda folder: folder / "state" / "_METADATA",
    "index": lambda folder: folder / "state" / "manifest.ocdbt",
    "meta": lambda folder: folder / "meta" / "metadata",
    "loss": lambda folder: folder / "loss" / "metadata",
}


def big():
    return {"w": jax.random.normal(jax.random.key(0), (64, 64))}


@pytest.fixture
def three(tmp_path):
    """Checkpoints 1, 2 and 3, of which 3 is damaged by the tests."""
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, big(), {"pending": []}, 1.0)
    return tmp_path


def refused(root, match):
    """Refused in one line that names the others; nothing is deleted; another one still restores."""
    before = sorted(root.rglob("*"))
    with Checkpoints(root) as checkpoints:
        with pytest.raises(UserError, match=match) as caught:
            checkpoints.restore(jax.eval_shape(big), 3)
        again, _, _ = checkpoints.restore(jax.eval_shape(big), 2)
    np.testing.assert_array_equal(again["w"], big()["w"])
    assert "steps [1, 2]" in str(caught.value) and "\n" not in str(caught.value)
    assert sorted(root.rglob("*")) == before


@pytest.mark.parametrize("change", [flip_everything, flip_one_bit, cut])
@pytest.mark.parametrize("file", FILES)
def test_damage_is_noticed(three, file, change):
    path = FILES[file](three / "3")
    path.write_bytes(change(bytearray(path.read_bytes())))
    refused(three, r"checkpoint 3 .* is damaged: \w+/.* is not as it was written")


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_noticed(three, file):
    FILES[file](three / "3").unlink()
    refused(three, r"checkpoint 3 .* is damaged: \w+/.* is missing")


def test_a_deleted_directory_is_noticed(three):
    shutil.rmtree(three / "3" / "state")
    refused(three, r"checkpoint 3 .* is damaged: state/.* is missing")
    with Checkpoints(three) as checkpoints:
        shutil.rmtree(three / "3")
        with pytest.raises(UserError, match=r"its directory is gone; .*\[1, 2\]"):
            checkpoints.restore(jax.eval_shape(big))
    with Checkpoints(three) as checkpoints, pytest.raises(UserError, match=r"step 3 .*, found \[1, 2\]"):
        checkpoints.restore(jax.eval_shape(big), 3)


def test_only_intact_checkpoints_are_recommended(three):
    for step in ("1", "3"):
        arrays(three / step).write_bytes(b"")
    with Checkpoints(three) as checkpoints, pytest.raises(UserError, match=r"intact ones here are of steps \[2\]"):
        checkpoints.restore(jax.eval_shape(big))


def test_a_damaged_list_of_sums_is_said_and_a_missing_one_is_no_hindrance(three):
    """Older versions wrote none; what Orbax notes beside the items for itself does not matter either."""
    (three / "3" / "checksums.json").write_text("{garbage")
    refused(three, r"damaged: checksums.json, its list of checksums, cannot be read \(delete that file")
    (three / "3" / "checksums.json").unlink()
    (three / "3" / "_CHECKPOINT_METADATA").write_text("garbage")
    with Checkpoints(three) as checkpoints:
        again, meta, step = checkpoints.restore(jax.eval_shape(big))
    assert step == 3 and meta == {"pending": []} and (again["w"] == big()["w"]).all()


@pytest.mark.parametrize("other", [{"w": (4, 4), "b": ()}, {"w": (64, 32)}, {"v": (64, 64)}])
def test_another_recipes_checkpoint_is_refused(three, other):
    like = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in other.items()}
    with Checkpoints(three) as checkpoints, pytest.raises(UserError, match=r"another recipe .*\[1, 2\]") as caught:
        checkpoints.restore(like)
    assert "\n" not in str(caught.value)


def test_no_checkpoint_is_said(tmp_path):
    with Checkpoints(tmp_path / "none") as checkpoints, pytest.raises(UserError, match="found none"):
        checkpoints.restore(big())
    assert not (tmp_path / "none").exists()


FULL_DISK = """
import resource, sys
import jax
from experiments.checkpoint import Checkpoints
from experiments.errors import UserError

state = lambda: {"w": jax.random.normal(jax.random.key(0), (512, 512))}
with Checkpoints(sys.argv[1], keep=1) as checkpoints:
    if sys.argv[2] == "second":
        checkpoints.save(10, state(), {}, 1.0)
        checkpoints.restore(jax.eval_shape(state))
try:
    with Checkpoints(sys.argv[1], keep=1) as checkpoints:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
        checkpoints.save(20, state(), {}, 1.0)
        if sys.argv[3] == "next save":
            checkpoints.save(30, state(), {}, 1.0)
except UserError as error:
    assert 20 not in checkpoints.steps()
    print(error)
"""


@pytest.mark.parametrize("when", ["next save", "exit"])
@pytest.mark.parametrize("which", ["first", "second"])
def test_a_full_disk_is_one_message_and_costs_no_older_checkpoint(tmp_path, which, when):
    """The disk is full for files above 200 kB: the save in the background fails."""
    root = tmp_path / "checkpoints"
    command = [sys.executable, "-c", FULL_DISK, root, which, when]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "could not save checkpoint 20" in done.stdout and "File too large; free some space" in done.stdout
    assert ("checkpoint 10 is intact and --resume" if which == "second" else "no earlier one") in done.stdout
    assert done.stdout.count("\n") == 1
    like = {"w": jax.ShapeDtypeStruct((512, 512), jnp.float32)}
    with Checkpoints(root, keep=1) as checkpoints:
        assert checkpoints.steps() == ([10] if which == "second" else [])
        if which == "second":
            again, _, _ = checkpoints.restore(like)
            np.testing.assert_array_equal(again["w"], jax.random.normal(jax.random.key(0), (512, 512)))
        checkpoints.save(20, {"w": jnp.ones((512, 512))}, {}, 1.0)
    assert [path.name for path in root.iterdir()] == ["20"] or which == "second"


def test_nothing_unpickles():
    root = Path(__file__).parents[1]
    names = "(c?pickle|dill|joblib|cloudpickle|marshal|shelve)"
    wrong = re.compile(rf"\b(import|from)\s+{names}\b|\b{names}\.\w|allow_pickle\s*=\s*True|torch\.load|read_pickle")
    files = [path for folder in ("jaxdiff", "experiments", "benchmarks") for path in (root / folder).rglob("*.py")]
    assert len(files) > 50
    found = [f"{path}: {line}" for path in files for line in path.read_text().splitlines() if wrong.search(line)]
    assert not found, found
    assert wrong.search("import pickle") and wrong.search("np.load(f, allow_pickle=True)")
