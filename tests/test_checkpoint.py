import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.checkpoint import Checkpoints, _absolute
from experiments.errors import UserError


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


def test_newest_and_best_are_kept(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step, loss in ((1, 3.0), (2, 0.5), (3, 2.0), (4, float("nan")), (5, 1.0), (6, 4.0)):
            checkpoints.save(step, state(step), {}, loss)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [2, 5, 6]


def test_restored_onto_other_devices(tmp_path):
    everywhere = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec())
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, jax.device_put(state(), everywhere), {}, 1.0)
    with Checkpoints(tmp_path) as checkpoints:
        again, _, _ = checkpoints.restore(jax.eval_shape(state))
    assert len(again["w"].sharding.device_set) == 1
    np.testing.assert_array_equal(again["w"], state()["w"])


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


def damage(path, change):
    """Apply `change` to the largest file of the state: its arrays."""
    files = [f for f in (path / "1" / "state").rglob("*") if f.is_file() and "d" in [p.name for p in f.parents]]
    largest = max(files, key=lambda f: f.stat().st_size)
    largest.write_bytes(change(bytearray(largest.read_bytes())))


def flip_everything(data):
    return bytes(byte ^ 0xFF for byte in data)


def flip_one_in_the_middle(data):
    data[len(data) // 2] ^= 1
    return bytes(data)


@pytest.mark.parametrize(
    "change", [flip_everything, flip_one_in_the_middle, lambda data: bytes(data[: len(data) // 2])]
)
def test_damage_is_noticed(tmp_path, change):
    big = lambda: {"w": jax.random.normal(jax.random.key(0), (64, 64))}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, big(), {}, 1.0)
    damage(tmp_path, change)
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(UserError, match=r"checkpoint 1 .*damaged: state"):
        checkpoints.restore(jax.eval_shape(big))


def test_another_recipes_checkpoint_is_refused(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state(), {}, 1.0)
    other = {"w": jax.ShapeDtypeStruct((4, 4), jnp.float32), "b": jax.ShapeDtypeStruct((), jnp.float32)}
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(UserError, match="another recipe"):
        checkpoints.restore(other)


def test_no_checkpoint_is_said(tmp_path):
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(UserError, match="found none"):
        checkpoints.restore(state())
