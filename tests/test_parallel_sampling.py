"""`pmap_sample` and `shard_sample` on forced CPU devices against `sample`: bit-equal with an elementwise denoiser."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import Gaussian, grids, guidance, networks, parallel, sample, schedules, solvers
from jaxdiff.parallel import pmapped
from jaxdiff.types import batch_axes, expand, per_sample, pytree

PROCESS = Gaussian(schedule=schedules.Cosine())
GRID = grids.uniform(PROCESS.schedule, 6)
KEY, SIZE = jax.random.key(1), 16
SPEC = jax.ShapeDtypeStruct((SIZE, 16), jnp.float32)  # whole vector registers on every device
X0 = jax.random.normal(jax.random.key(0), SPEC.shape)
plain = jax.jit(sample, static_argnames=("spec", "trajectory"))


def network(x, t, cond=None):
    """Elementwise, with a class."""
    shift = 0.0 if cond is None else 0.1 * cond.astype(jnp.float32)[:, None]
    return jnp.sin(2 * x) * (1 - 0.3 * expand(t, x)) + shift


BARE = jax.tree_util.Partial(network)
GUIDED = guidance.classifier_free(
    PROCESS.denoiser(BARE), jnp.arange(SIZE) % 5, jnp.int32(9), guidance.scale(scale=jnp.linspace(1, 3, SIZE))
)


def on(devices, *arguments, **options):
    if devices == "mesh":
        return parallel.shard_sample(*arguments, mesh=parallel.make_mesh(fsdp=2, tensor=2), **options)
    return parallel.pmap_sample(*arguments, devices=jax.devices()[:devices], **options)


@pytest.mark.parametrize("devices", [1, 2, 4, 8, "mesh"])
@pytest.mark.parametrize("solver", [solvers.DDIM(eta=0.5), solvers.UniPC()], ids=["ddim eta", "unipc"])
def test_samples_are_those_of_one_device(devices, solver):
    """Conditions, guidance scales and noise go with their samples."""
    arguments = KEY, PROCESS, GUIDED, solver, GRID
    expected, info = plain(*arguments, spec=SPEC, first=32, trajectory=True)
    x, again = on(devices, *arguments, spec=SPEC, first=32, trajectory=True)
    np.testing.assert_array_equal(x, expected)
    np.testing.assert_array_equal(again.trajectory, info.trajectory)
    assert again.nfe == info.nfe


@pytest.mark.parametrize("devices", [8, "mesh"])
def test_every_start_and_source_of_noise(devices):
    noise = jax.random.normal(jax.random.key(4), (6, 1, *SPEC.shape))
    keys = jax.random.split(jax.random.key(5), SIZE)
    for key, options in [
        (KEY, {"x0": X0}),
        (KEY, {"x": X0}),
        (KEY, {"x": X0, "noise": noise}),
        (keys, {"spec": SPEC}),
    ]:
        arguments = key, PROCESS, GUIDED, solvers.DDIM(eta=1.0), GRID
        np.testing.assert_array_equal(on(devices, *arguments, **options)[0], plain(*arguments, **options)[0])


@pytest.mark.parametrize("devices", [8, "mesh"])
def test_observed_elements_stay_with_their_sample(devices):
    for mask in (X0 > 0, X0[:1] > 0):
        denoise = PROCESS.denoiser(BARE, observed=(mask, X0))
        x, _ = on(devices, KEY, PROCESS, denoise, solvers.DDIM(), GRID, spec=SPEC)
        np.testing.assert_array_equal(x, plain(KEY, PROCESS, denoise, solvers.DDIM(), GRID, spec=SPEC)[0])
        np.testing.assert_array_equal(np.where(mask, x, 0), np.where(mask, X0, 0))


def test_the_samples_of_partitioned_parameters():
    init, apply = networks.functional(lambda rngs: networks.DiT((8, 8, 1), width=32, depth=1, heads=2, rngs=rngs))
    draw = np.random.default_rng(0)
    shapes = jax.eval_shape(init, jax.random.key(0))
    params = jax.tree.map(lambda a: jnp.asarray(draw.normal(0, 0.1, a.shape), a.dtype), shapes)
    mesh, spec = parallel.make_mesh(fsdp=4, tensor=2), jax.ShapeDtypeStruct((8, 8, 8, 1), jnp.float32)
    run = lambda params, **mesh: PROCESS.denoiser(jax.tree_util.Partial(apply, params))
    x, _ = parallel.shard_sample(
        KEY, PROCESS, run(parallel.place(params, mesh)), solvers.DPMpp2M(), GRID, mesh=mesh, spec=spec
    )
    expected, _ = plain(KEY, PROCESS, run(params), solvers.DPMpp2M(), GRID, spec=spec)
    assert np.linalg.norm(x - expected) / np.linalg.norm(expected) < 1e-4
    assert len(x.sharding.device_set) == 8 and not x.sharding.is_fully_replicated


def test_one_compilation_serves_every_number():
    pmapped._sampler.cache_clear()
    for seed, eta, scale, steps in [(0, 0.0, 1.0, 6), (1, 0.7, 3.0, 3)]:
        grid = jnp.concatenate([grids.uniform(PROCESS.schedule, steps), jnp.zeros(6 - steps)])
        denoise = guidance.classifier_free(PROCESS.denoiser(BARE), jnp.arange(SIZE) % 5, 9, guidance.scale(scale=scale))
        solver = solvers.DDIM(eta=eta)
        x, info = parallel.pmap_sample(jax.random.key(seed), PROCESS, denoise, solver, grid, spec=SPEC, first=seed)
        assert info.nfe == steps and np.isfinite(x).all()
    assert pmapped._sampler.cache_info().misses == 1


def test_an_adaptive_solver_runs_on_each_device():
    x, info = parallel.pmap_sample(KEY, PROCESS, PROCESS.denoiser(BARE), solvers.Adaptive(), GRID, spec=SPEC)
    expected, _ = plain(KEY, PROCESS, PROCESS.denoiser(BARE), solvers.Adaptive(), GRID, spec=SPEC)
    np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-6)
    assert info.nfe.shape == () and info.nfe > 0


@pytest.mark.parametrize("devices", [8, "mesh"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "exactly one of spec"),
        ({"spec": SPEC, "x": X0}, "exactly one of spec"),
        ({"x": X0[:3]}, "must divide the batch, got a batch of 3|given for 16 samples"),
        ({"x": jnp.tile(X0, (2, 1))}, r"given for 16 samples, shape \(16,\), in a batch of 32"),
    ],
)
def test_mistakes_are_one_message(devices, options, message):
    with pytest.raises(ValueError, match=message):
        on(devices, KEY, PROCESS, GUIDED, solvers.DDIM(), GRID, **options)


def test_what_belongs_to_a_sample_is_declared():
    """Only `per_sample` fields are split, wherever they stand; parameters never, whatever their shape."""

    @pytree
    class Inner:
        weight: object
        label: object = per_sample(default=None)

    tree = {"a": Inner(weight=jnp.ones((4, 2)), label=(jnp.ones(4), jnp.ones((1, 3)), 2.0)), "b": jnp.ones(4)}
    axes = batch_axes(tree, 4)
    assert axes["a"].weight is None and axes["a"].label == (0, None, None) and axes["b"] is None
    assert batch_axes(jax.tree_util.Partial(network, Inner(weight=1.0, label=jnp.ones(4))), 4).args[0].label == 0
    with pytest.raises(ValueError, match=r"given for 4 samples, shape \(4,\), in a batch of 5"):
        batch_axes(tree, 5)
    one = functools.partial(batch_axes, size=1)
    assert one(Inner(weight=1.0, label=jnp.ones((1, 2)))).label == 0
