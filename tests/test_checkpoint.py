"""Checkpoints that nothing happens to: what is kept, and onto which devices it comes back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from experiments.checkpoint import Checkpoints, _absolute


def state(value: float = 0.0):
    return {"w": jnp.arange(6.0).reshape(2, 3) + value, "key": jax.random.key(3), "step": jnp.int32(7)}


def test_state_and_meta_come_back_exactly(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, state(), {"pending": [{"loss": 0.1}]}, loss=1.0)
    with Checkpoints(tmp_path) as checkpoints:
        again, meta, step = checkpoints.restore(jax.eval_shape(state))
    assert step == 3
    assert meta == {"pending": [{"loss": 0.1}]}
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(state()), strict=True):
        assert a.dtype == b.dtype
        assert (a == b).all()


def test_a_relative_path_serves(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Checkpoints("run/checkpoints") as checkpoints:
        checkpoints.save(1, state(), {}, loss=1.0)
    with Checkpoints(tmp_path / "run" / "checkpoints") as checkpoints:
        assert checkpoints.steps() == [1]
    assert str(_absolute("gs://bucket/run")) == "gs://bucket/run"


LOSSES = {1: 3.0, 2: 0.5, 3: 2.0, 4: float("nan"), 5: 1.0, 6: 4.0, 7: 1.0}


@pytest.mark.parametrize(
    ("options", "kept"),
    [({"keep": 2}, [2, 6, 7]), ({"keep": 1, "keep_every": 3}, [2, 3, 6, 7]), ({"keep": None}, [1, 2, 3, 4, 5, 6, 7])],
)
@pytest.mark.parametrize("starts", [1, 7])
def test_newest_best_and_every_nth_are_kept(tmp_path, options, kept, starts):
    """In one go as well as over several starts of the run."""
    for steps in np.array_split(list(LOSSES), starts):
        with Checkpoints(tmp_path, **options) as checkpoints:
            for step in steps.tolist():
                checkpoints.save(step, state(step), {}, LOSSES[step])
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == kept


def test_a_policy_that_keeps_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="keep must be at least 1"):
        Checkpoints(tmp_path, keep=0)


def test_reading_leaves_a_save_in_flight_alone(tmp_path):
    """Sampling from a run that still trains must not clear away what it is writing, and does not list it."""
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state(), {}, 1.0)
    (tmp_path / "2.orbax-checkpoint-tmp").mkdir()
    (tmp_path / "2.orbax-checkpoint-tmp" / "half").write_text("half")
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(jax.eval_shape(state))[2] == 1
    assert (tmp_path / "2.orbax-checkpoint-tmp" / "half").exists()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, state(), {}, 1.0)
        assert checkpoints.steps() == [1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "3"]


def wide():
    keys = jax.random.split(jax.random.key(0), 8)
    return {"w": jax.random.normal(keys[0], (8, 16)), "b": jnp.arange(16.0), "key": keys[1], "keys": keys}


def layout(name):
    """`wide`'s structure, partitioned in one of several ways."""
    like = jax.eval_shape(wide)
    if name == "one device":
        return like
    devices, names, specs = {
        "replicated on 8": (np.array(jax.devices()), ("data",), {}),
        "by rows on 8": (np.array(jax.devices()), ("data",), {"w": P("data"), "b": P("data"), "keys": P("data")}),
        "by columns on 4": (np.array(jax.devices()[:4]), ("model",), {"w": P(None, "model"), "keys": P("model")}),
        "both on 2 x 2": (
            np.array(jax.devices()[4:]).reshape(2, 2),
            ("data", "model"),
            {"w": P("data", "model"), "b": P("model")},
        ),
    }[name]
    mesh = Mesh(devices, names)
    placed = lambda name, leaf: jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, specs.get(name, P()))
    )
    return {name: placed(name, leaf) for name, leaf in like.items()}


LAYOUTS = ["one device", "replicated on 8", "by rows on 8", "by columns on 4", "both on 2 x 2"]


@pytest.mark.parametrize("saved", LAYOUTS)
def test_restored_onto_other_devices_and_layouts(tmp_path, saved):
    """From each layout to every other: equal to the bit, typed keys as well, and placed as asked for."""
    put = lambda leaf, like: jax.device_put(leaf, like.sharding) if like.sharding else leaf
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, jax.tree.map(put, wide(), layout(saved)), {}, 1.0)
    with Checkpoints(tmp_path) as checkpoints:
        for wanted in LAYOUTS:
            like = layout(wanted)
            again, _, _ = checkpoints.restore(like)
            for name, leaf in again.items():
                assert leaf.dtype == like[name].dtype and (leaf == wide()[name]).all(), (wanted, name)
                assert leaf.sharding.is_equivalent_to(
                    like[name].sharding or SingleDeviceSharding(jax.devices()[0]), leaf.ndim
                )


def test_a_donated_state_is_saved_as_it_was(tmp_path):
    add = jax.jit(lambda s: {**s, "w": s["w"] + 1}, donate_argnums=0)
    current = state()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, current, {}, 1.0)
        for _ in range(20):
            current = add(current)
        jax.block_until_ready(current)
    with Checkpoints(tmp_path) as checkpoints:
        again, _, _ = checkpoints.restore(jax.eval_shape(state))
    np.testing.assert_array_equal(again["w"], state()["w"])
