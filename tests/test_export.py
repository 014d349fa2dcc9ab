"""Exported parameters: readable by anything, and the same network when it is made again."""

import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from safetensors import safe_open
from safetensors.numpy import load_file

import jaxdiff
from experiments import config, export, train
from experiments.errors import UserError
from experiments.loading import load_state
from experiments.model import Model
from jaxdiff import networks


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "run"
    train.run(tiny.recipe(steps=4, checkpoint_every=2), tiny.arrays(4), out, devices=jax.devices()[:1])
    return out


def described(path):
    with safe_open(path, framework="numpy") as file:
        return json.loads(file.metadata()["jaxdiff"])


@pytest.mark.parametrize("raw", [False, True])
def test_what_is_exported(run, tmp_path, raw, capsys):
    """The average, or the parameters themselves; the same description in the file and beside it."""
    out = tmp_path / "new" / "weights.safetensors"
    export.main([str(run), str(out), *(["--raw"] if raw else [])])
    assert f"{'raw' if raw else 'average'} parameters of step 4" in capsys.readouterr().out
    _, state, _ = load_state(run)
    arrays = load_file(out)
    expected = export.tensors(state.params if raw else state.ema)
    assert arrays.keys() == expected.keys()
    for name, array in arrays.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, expected[name])
    about = described(out)
    assert about == json.loads(out.with_suffix(".json").read_text())
    assert about["version"] == jaxdiff.__version__ and about["step"] == 4
    assert about["recipe"] == config.encode(tiny.recipe(steps=4, checkpoint_every=2))
    assert about["data"]["classes"] == list("0123456789")
    assert about["sha256"] == export.digest(arrays)
    flipped = {name: array + (name == min(arrays)) for name, array in arrays.items()}
    assert about["sha256"] != export.digest(flipped)
    assert sorted(path.name for path in out.parent.iterdir()) == ["weights.json", "weights.safetensors"]


def test_readable_without_this_project_and_without_jax(run, tmp_path):
    export.export(run, tmp_path / "w.safetensors")
    program = """
import sys
for name in ("jax", "jaxdiff", "experiments"):
    sys.modules[name] = None
from safetensors.numpy import load_file
print(sum(a.size for a in load_file(sys.argv[1]).values()))
"""
    command = [sys.executable, "-c", program, tmp_path / "w.safetensors"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    _, state, _ = load_state(run)
    assert int(done.stdout) == sum(leaf.size for leaf in jax.tree.leaves(state.ema))


def test_the_network_made_again_from_the_file_alone_gives_identical_outputs(run, tmp_path):
    export.export(run, tmp_path / "w.safetensors")
    about, arrays = described(tmp_path / "w.safetensors"), load_file(tmp_path / "w.safetensors")
    params = jax.tree.map(jnp.asarray, export.nested(arrays))
    recipe, info = config.decode(about["recipe"]), config.decode(about["data"])
    _, apply = networks.functional(recipe.network.make(info.shape, len(info.classes)))

    model, state, _ = load_state(run)
    assert jax.tree.structure(params) == jax.tree.structure(state.ema)
    x, cond = jax.random.normal(jax.random.key(0), (5, *info.shape)), jnp.arange(5)
    np.testing.assert_array_equal(apply(params, x, 0.3, cond), model.apply(state.ema, x, 0.3, cond))


@pytest.mark.parametrize("network", ["MLP", "UNet", "DiT"])
def test_names_lead_back_to_the_same_tree(network):
    """Lists of blocks and layers as well."""
    from experiments import networks as kinds

    small = {"MLP": {"width": 8}, "UNet": {"channels": 8, "head_dim": 8}, "DiT": {"width": 16, "heads": 2}}[network]
    model = Model(
        tiny.recipe(network=getattr(kinds, network)(**small)), train.DataInfo(shape=(8, 8, 1), classes=("a", "b"))
    )
    params = model.fresh_state().params
    again = export.nested(export.tensors(params))
    assert jax.tree.structure(again) == jax.tree.structure(params)
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: (a == b).all(), again, params)))


def test_an_earlier_checkpoint(run, tmp_path):
    assert export.export(run, tmp_path / "w.safetensors", step=2)["step"] == 2


def test_nothing_is_overwritten_unasked(run, tmp_path):
    out = tmp_path / "w.safetensors"
    out.with_suffix(".json").write_text("mine")
    with pytest.raises(UserError, match=r"w\.json already there; add --overwrite"):
        export.export(run, out)
    assert not out.exists() and out.with_suffix(".json").read_text() == "mine"
    export.export(run, out, overwrite=True)
    assert described(out)["step"] == 4


@pytest.fixture
def unfinished(run, tmp_path):
    """The run as if it had been asked for more steps."""
    out = tmp_path / "unfinished"
    shutil.copytree(run, out)
    text = (out / "config.json").read_text()
    (out / "config.json").write_text(text.replace('"steps": 4,', '"steps": 9,'))
    return out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "needed a run directory and a file to write"),
        (["{run}"], "needed a run directory and a file to write"),
        (["{run}", "{new}/w.npz"], r"ends in \.safetensors, got .*w\.npz; use .*w\.safetensors"),
        (["{new}/none", "{new}/w.safetensors"], "no such directory"),
        (["{unfinished}", "{new}/w.safetensors"], "unfinished: .* step 4 of 9"),
        (["{run}", "{new}/w.safetensors", "--step", "3"], r"a checkpoint of step 3 .*, found \[2, 4\]"),
        (["{run}", "{new}/w.safetensors", "--rav"], "--rav"),
    ],
)
def test_mistakes(run, unfinished, tmp_path, arguments, message):
    places = {"run": run, "unfinished": unfinished, "new": tmp_path / "new"}
    with pytest.raises(UserError, match=message):
        export.main([argument.format(**places) for argument in arguments])
    assert not (tmp_path / "new").exists()


def test_an_unfinished_run_on_request(unfinished, tmp_path):
    assert export.export(unfinished, tmp_path / "w.safetensors", unfinished=True)["step"] == 4


def test_help(capsys):
    with pytest.raises(SystemExit) as stop:
        export.main(["--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert all(flag in out for flag in ("RUN OUT.safetensors", "--raw", "--step", "--unfinished", "--overwrite"))
