"""`pmap_step` on forced CPU devices against the plain step: same numbers, ordinary arrays, one compilation.

Every step is awaited: steps with collectives that pile up on few cores would deadlock.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiff import Gaussian, TrainState, make_step, networks, parallel, schedules

PROCESS = Gaussian(schedule=schedules.Cosine())
OPTIMIZER = optax.adam(1e-3)
BATCH, CLASSES = 8, 3


@functools.cache
def build(name):
    """A network with dropout, classes and condition dropout: its shape, fresh state, step and compiled step."""
    options = {"num_classes": CLASSES, "dropout": 0.3}
    make = {
        "mlp": lambda rngs: networks.MLP((2,), width=16, depth=1, **options, rngs=rngs),
        "unet": lambda rngs: networks.UNet(
            (4, 4, 1), channels=8, multipliers=(1,), blocks=1, attention=(), **options, rngs=rngs
        ),
    }[name]
    init, apply = networks.functional(make)
    # Away from the zeros of a fresh network, behind which rounding would decide the direction of Adam's first steps.
    draw = np.random.default_rng(0)
    params = jax.tree.map(
        lambda a: jnp.asarray(draw.normal(0, 0.2, a.shape), a.dtype), jax.eval_shape(init, jax.random.key(0))
    )
    step = make_step(PROCESS, apply, OPTIMIZER, ema=0.9, null_cond=jnp.int32(CLASSES), cond_dropout=0.3)
    plain = jax.jit(step, compiler_options={"xla_backend_optimization_level": 0})
    return (2,) if name == "mlp" else (4, 4, 1), TrainState.create(params, OPTIMIZER), step, plain


def batches(shape, steps, index, size=BATCH):
    draw = np.random.default_rng(1)
    for i in range(steps):
        batch = {
            "x0": draw.normal(size=(size, *shape)).astype(np.float32),
            "cond": draw.integers(0, CLASSES, size).astype(np.int32),
        }
        # A stream that several hosts share gives an index that is neither sorted nor starts at zero.
        yield {**batch, "index": (1000 + size * i + draw.permutation(size)).astype(np.int32)} if index else batch


@functools.cache
def expected(name, steps, index):
    shape, state, _, plain = build(name)
    metrics = []
    for batch in batches(shape, steps, index):
        state, measured = plain(state, jax.random.key(7), batch)
        metrics.append(measured)
    return jax.block_until_ready((state, metrics))


def run(name, devices, steps, index):
    shape, fresh, step, _ = build(name)
    update = parallel.pmap_step(step, devices)
    state, key = parallel.replicate((fresh, jax.random.key(7)), devices)
    metrics = []
    for batch in batches(shape, steps, index):
        state, measured = jax.block_until_ready(update(state, key, batch))
        metrics.append(measured)
    return state, metrics


def distance(a, b):
    """|a - b| / |b| over all numbers of two trees."""
    norm = lambda tree: float(optax.tree.norm(jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float32), tree)))
    return norm(jax.tree.map(lambda x, y: np.asarray(x) - np.asarray(y), a, b)) / norm(b)


CASES = [("mlp", 2, True), ("mlp", 4, False), ("mlp", 8, True), ("mlp", 8, False), ("unet", 8, True)]


@pytest.mark.parametrize(("name", "count", "index"), CASES)
def test_pmap_gives_the_numbers_of_the_plain_step(name, count, index):
    """Losses, gradients' norms, parameters, averages and Adam's moments over ten steps; dropout masks are the same."""
    steps = 10
    state, metrics = run(name, jax.devices()[:count], steps, index)
    plain_state, plain_metrics = expected(name, steps, index)
    assert int(state.step) == steps
    for ours, plain in zip(metrics, plain_metrics, strict=True):
        assert ours.keys() == plain.keys() == {"loss", "error", "grad_norm"}
        for name in ours:
            np.testing.assert_allclose(ours[name], plain[name], rtol=1e-5, err_msg=name)
    for part in ("params", "ema", "opt_state"):
        assert distance(getattr(state, part), getattr(plain_state, part)) < 1e-5, part


@pytest.mark.parametrize("index", [True, False])
def test_the_comparison_would_notice(index):
    """Another key, or the same numbers for every device, is far from 1e-5."""
    shape, fresh, _, plain = build("mlp")
    batch = next(batches(shape, 1, index))
    loss = float(plain(fresh, jax.random.key(7), batch)[1]["loss"])
    assert abs(float(plain(fresh, jax.random.key(8), batch)[1]["loss"]) / loss - 1) > 1e-3
    repeated = {**batch, "index": np.tile(np.arange(2), BATCH // 2).astype(np.int32)}
    assert abs(float(plain(fresh, jax.random.key(7), repeated)[1]["loss"]) / loss - 1) > 1e-3


def test_the_state_is_an_ordinary_tree_of_arrays():
    """Same structure, shapes and dtypes as a fresh one, a copy on each device; plain `jit` goes on from it."""
    shape, fresh, _, plain = build("mlp")
    state, _ = run("mlp", jax.devices(), 2, True)
    assert jax.tree.structure(state) == jax.tree.structure(fresh)
    for ours, first in zip(jax.tree.leaves(state), jax.tree.leaves(fresh), strict=True):
        assert (ours.shape, ours.dtype) == (first.shape, first.dtype)
        assert ours.sharding.is_fully_replicated and len(ours.sharding.device_set) == 8
    third = list(batches(shape, 3, True))[2]
    resumed, metrics = jax.block_until_ready(plain(state, jax.random.key(7), third))
    straight, all_metrics = expected("mlp", 3, True)
    np.testing.assert_allclose(metrics["loss"], all_metrics[2]["loss"], rtol=1e-5)
    assert distance(resumed.params, straight.params) < 1e-5


def linear(traces):
    def apply(params, x, t, cond=None, *, key=None):
        traces.append(1)
        return params["w"] * x

    return make_step(PROCESS, apply, OPTIMIZER), TrainState.create({"w": jnp.ones(2)}, OPTIMIZER)


def test_a_replicated_state_compiles_once():
    traces = []
    step, fresh = linear(traces)
    update = parallel.pmap_step(step)
    state, key = parallel.replicate((fresh, jax.random.key(0)))
    for batch in batches((2,), 4, True):
        state, _ = jax.block_until_ready(update(state, key, batch))
    assert len(traces) == 1


def test_replicate_copies_and_the_step_donates():
    """The step may write into its own state but not into what the state was copied from."""
    step, fresh = linear([])
    state, key = parallel.replicate((fresh, jax.random.key(0)))
    for leaf in jax.tree.leaves((state, key)):
        assert len(leaf.sharding.device_set) == 8 and leaf.sharding.is_fully_replicated
    assert key == jax.random.key(0)
    jax.block_until_ready(parallel.pmap_step(step)(state, key, next(batches((2,), 1, False))))
    assert state.params["w"].is_deleted() and not key.is_deleted()
    np.testing.assert_array_equal(fresh.params["w"], jnp.ones(2))
    assert int(fresh.step) == 0


def test_replicate_takes_the_devices_it_is_given():
    two = jax.devices()[2:4]
    tree = parallel.replicate({"a": np.arange(3.0, dtype=np.float32), "key": jax.random.key(1)}, two)
    assert all(leaf.sharding.device_set == set(two) for leaf in jax.tree.leaves(tree))
    np.testing.assert_array_equal(tree["a"], np.arange(3))


@pytest.mark.parametrize("size", [4, 12, 15])
def test_devices_must_divide_the_batch(size):
    step, fresh = linear([])
    update = parallel.pmap_step(step)
    message = f"8 devices must divide the batch, got a batch of {size}; {size - size % 8} or {size + -size % 8}"
    with pytest.raises(ValueError, match=message):
        update(fresh, jax.random.key(0), next(batches((2,), 1, True, size)))
    assert not fresh.params["w"].is_deleted()
