"""MLP, U-Net and DiT on a mesh of forced CPU devices against the plain step: same numbers, a part of the memory each.

Dropout and dropped conditions are on: their masks belong to examples. Every step is awaited: steps with collectives
that pile up on few cores would deadlock. MLP and DiT are on the mesh of all three axes and each layout has a network;
the other pairs are `slow`, the U-Net's among them.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiff import Gaussian, TrainState, averages, make_step, networks, parallel, schedules
from jaxdiff.training import several

pytestmark = pytest.mark.usefixtures("compile_quickly")

STEPS, BATCH, CLASSES, SHAPE = 20, 16, 3, (8, 8, 1)
OPTIMIZER = optax.adam(1e-3)
SPLITS = {"data": {}, "fsdp": {"fsdp": 8}, "tensor": {"tensor": 2}, "all three": {"fsdp": 2, "tensor": 2}}
MAKE = {
    "unet": functools.partial(
        networks.UNet, SHAPE, channels=16, multipliers=(1, 2), blocks=1, attention=(4,), head_dim=16
    ),
    "mlp": functools.partial(networks.MLP, SHAPE, width=32, depth=2),
    "dit": functools.partial(networks.DiT, SHAPE, width=32, depth=1, heads=4, patch=2),
}
QUICK = {("mlp", "all three"), ("mlp", "data")}
QUICK |= {("dit", "fsdp"), ("dit", "tensor"), ("dit", "all three"), ("dit", "pmap")}


def cases(*lists):
    """The product of the lists; what is not in `QUICK` is `slow`."""
    marks = lambda case: [] if case in QUICK else pytest.mark.slow
    return [pytest.param(*case, marks=marks(case)) for case in itertools.product(*lists)]


@functools.cache
def step_of(name, **options):
    init, apply = networks.functional(lambda rngs: MAKE[name](num_classes=CLASSES, dropout=0.3, rngs=rngs))
    step = make_step(
        Gaussian(schedule=schedules.Cosine()),
        apply,
        OPTIMIZER,
        ema=0.9,
        averages={"long": averages.power.of_width(0.1)},
        null_cond=jnp.int32(CLASSES),
        cond_dropout=0.3,
        **options,
    )
    return init, step


def fresh(name):
    """Away from the zeros of a fresh network, behind which rounding would decide Adam's first steps."""
    init, _ = step_of(name)
    draw = np.random.default_rng(0)
    shapes = jax.eval_shape(init, jax.random.key(0))
    params = jax.tree.map(lambda a: jnp.asarray(draw.normal(0, 0.1, a.shape), a.dtype), shapes)
    return TrainState.create(params, OPTIMIZER, ["long"])


@functools.cache
def batches(steps=STEPS):
    draw = np.random.default_rng(1)
    return [
        {
            "x0": draw.normal(size=(BATCH, *SHAPE)).astype(np.float32),
            "cond": draw.integers(0, CLASSES, BATCH).astype(np.int32),
            "index": (1000 + BATCH * i + draw.permutation(BATCH)).astype(np.int32),
        }
        for i in range(steps)
    ]


def run(update, state, key):
    """The last state, the metrics of each step, and the first step's gradient, a tenth of which is Adam's moment."""
    metrics, gradient = [], None
    for batch in batches():
        state, measured = jax.block_until_ready(update(state, key, batch))
        metrics.append(measured)
        if gradient is None:
            gradient = jax.tree.map(lambda moment: np.asarray(moment, np.float64) / 0.1, state.opt_state[0].mu)
    return state, metrics, gradient


@functools.cache
def expected(name):
    return run(jax.jit(step_of(name)[1]), fresh(name), jax.random.key(7))


@functools.cache
def on_mesh(name, split):
    mesh = parallel.make_mesh(**SPLITS[split])
    update = parallel.shard_step(step_of(name)[1], mesh)
    state, key = parallel.place(fresh(name), mesh), parallel.place(jax.random.key(7), mesh)
    program = update.lower(state, key, batches()[0]).compile()
    return *run(update, state, key), program.memory_analysis(), update


def distance(a, b):
    flat = lambda tree: np.concatenate([np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(tree)])
    a, b = flat(a), flat(b)
    return np.linalg.norm(a - b) / np.linalg.norm(b)


def agree(ours, plain, bound=1e-5):
    (state, metrics, *_), (plain_state, plain_metrics, *_) = ours, plain
    for measured, wanted in zip(metrics, plain_metrics, strict=True):
        for name in wanted:
            np.testing.assert_allclose(measured[name], wanted[name], rtol=bound, err_msg=name)
    for part in ("params", "ema", "averages", "opt_state"):
        assert distance(getattr(state, part), getattr(plain_state, part)) < bound, part


@pytest.mark.parametrize(("name", "split"), cases(MAKE, SPLITS))
def test_a_mesh_gives_the_numbers_of_the_plain_step(name, split):
    """Losses, norms of gradients, parameters, averages and moments over 20 steps, with one compilation."""
    state, metrics, *_, update = on_mesh(name, split)
    agree((state, metrics), expected(name))
    assert update._compiled._cache_size() == 1


@pytest.mark.parametrize(("name", "split"), cases(MAKE, ["pmap"]))
def test_pmap_gives_them_too(name, split):
    update = parallel.pmap_step(step_of(name)[1])
    state, key = parallel.replicate((fresh(name), jax.random.key(7)))
    agree(run(update, state, key), expected(name))


@pytest.mark.parametrize(("name", "split"), cases(MAKE, SPLITS))
def test_gradients_are_those_of_the_plain_step(name, split):
    """The gradient itself, leaf by leaf."""
    norms = []
    for a, b in zip(*map(jax.tree.leaves, (on_mesh(name, split)[2], expected(name)[2])), strict=True):
        norms.append((np.linalg.norm(a - b), np.linalg.norm(b)))
    assert len(norms) == len(jax.tree.leaves(fresh(name).params)) and min(norm for _, norm in norms) > 0
    # Where a gradient is nearly nothing, what is left of large terms that cancel is rounding.
    assert max(error / (norm + 1e-2) for error, norm in norms) < 1e-4
    assert np.linalg.norm([e for e, _ in norms]) / np.linalg.norm([n for _, n in norms]) < 1e-5


@pytest.mark.parametrize(("name", "split"), cases(MAKE, ["fsdp"]))
def test_memory_of_each_device_under_fsdp(name, split):
    """Parameters, averages and optimiser state: at most 1.2 / n of a copy, by the compiler's account."""
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves((fresh(name), batches()[0])))
    memory = on_mesh(name, split)[3]
    part = memory.argument_size_in_bytes
    print(f"{name}: {whole} bytes replicated, {part} on each of 8 devices: {8 * part / whole:.3f} / 8")
    assert part <= 1.2 / 8 * whole
    # The new state takes the place of the old one.
    assert memory.alias_size_in_bytes > 0.95 * part


@pytest.mark.parametrize("name", MAKE)
def test_a_placed_state_takes_its_part_of_each_device(name):
    """The same of the arrays themselves."""
    state = fresh(name)
    placed = jax.tree.leaves(parallel.place(state, parallel.make_mesh(fsdp=8)))
    for device in range(8):
        part = sum(leaf.addressable_shards[device].data.nbytes for leaf in placed)
        assert part <= 1.2 / 8 * sum(leaf.nbytes for leaf in jax.tree.leaves(state))


def test_tensor_parallel_splits_the_large_maps():
    mesh = parallel.make_mesh(tensor=4)
    params = jax.eval_shape(step_of("dit")[0], jax.random.key(0))
    block = jax.tree.map(lambda s: tuple(s.spec), parallel.shardings(params, mesh))["blocks"]["0"]
    assert block["attention"]["qkv"] == {"kernel": (None, "tensor"), "bias": ("tensor",)}
    assert block["attention"]["out"] == {"kernel": ("tensor",), "bias": ()}
    assert block["first"] == {"kernel": (None, "tensor"), "bias": ("tensor",)}
    assert block["last"] == {"kernel": ("tensor",), "bias": ()}
    unet = jax.eval_shape(step_of("unet")[0], jax.random.key(0))
    residual = jax.tree.map(lambda s: tuple(s.spec), parallel.shardings(unet, mesh))["down"]["0"]
    assert residual["first"]["kernel"] == (None, None, None, "tensor")
    assert residual["last"]["kernel"] == (None, None, "tensor")


def test_several_steps_and_accumulated_parts_on_a_mesh():
    """The same numbers in one dispatch, in parts, and with both."""
    _, step = step_of("dit", accumulate=2)
    mesh = parallel.make_mesh(fsdp=2)
    stacked = {name: np.stack([batch[name] for batch in batches()]) for name in batches()[0]}
    update = parallel.shard_step(several(step), mesh, batch_axis=1)
    state, key = parallel.place(fresh("dit"), mesh), parallel.place(jax.random.key(7), mesh)
    state, metrics = jax.block_until_ready(update(state, key, stacked))
    rows = [jax.tree.map(lambda column, i=i: column[i], metrics) for i in range(STEPS)]
    agree((state, rows), expected("dit"))


@pytest.mark.parametrize("split", [{"fsdp": 3}, {"fsdp": 4, "tensor": 4}, {"tensor": 0}])
def test_a_mesh_must_divide_the_devices(split):
    with pytest.raises(ValueError, match="must divide the 8 devices"):
        parallel.make_mesh(**split)


def test_a_batch_must_divide_over_the_mesh():
    mesh = parallel.make_mesh()
    update = parallel.shard_step(step_of("dit")[1], mesh)
    batch = jax.tree.map(lambda a: a[:12], batches()[0])
    with pytest.raises(ValueError, match="8 devices must divide the batch, got a batch of 12; 8 or 16"):
        update(parallel.place(fresh("dit"), mesh), jax.random.key(0), batch)
