"""Every training step and sampler lowers for CPU, CUDA and TPU: evidence without an accelerator.

`jax.export` writes one StableHLO module for all three platforms and raises where a primitive has no rule for one of
them. It does not compile: what a TPU's compiler makes of the module is measured in docs/scaling.md.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conformance import SOLVERS
from jax.sharding import NamedSharding, PartitionSpec

from jaxdiff import Gaussian, TrainState, grids, guidance, likelihood, make_step, networks, parallel, sample, schedules
from jaxdiff.training import several

PLATFORMS = ("cpu", "cuda", "tpu")
PROCESS = Gaussian(schedule=schedules.Cosine())
OPTIMIZER = optax.adamw(1e-3)
SHAPE, BATCH, CLASSES, STEPS = (8, 8, 1), 8, 3, 3
MAKE = {
    "mlp": functools.partial(networks.MLP, SHAPE, width=16, depth=1),
    "unet": functools.partial(networks.UNet, SHAPE, channels=8, multipliers=(1, 2), blocks=1, attention=(4,)),
    "dit": functools.partial(networks.DiT, SHAPE, width=16, depth=1, heads=8),
}
PLAIN = {}
MIXED = {"dtype": jnp.bfloat16, "remat": True, "dropout": 0.1}


def shapes(tree):
    """Shapes and dtypes in the place of arrays and numbers, so that every one of them is traced."""
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(jnp.shape(a), jax.dtypes.result_type(a)), tree)


def lower(f, *arguments):
    """One module for all platforms, for arguments that are known by their shapes."""
    exported = jax.export.export(f if hasattr(f, "lower") else jax.jit(f), platforms=PLATFORMS)(*shapes(arguments))
    assert exported.platforms == PLATFORMS
    assert not custom_calls(exported)
    return exported


def custom_calls(exported):
    """Functions outside XLA that the program calls: LAPACK, cuSOLVER, Python."""
    return set(re.findall(r"custom_call @(\w+)", exported.mlir_module()))


@functools.cache
def network(name, **options):
    return networks.functional(lambda rngs: MAKE[name](num_classes=CLASSES, rngs=rngs, **options))


def training(name, options, **more):
    """The arguments of a step, its state known by shapes, and the step."""
    init, apply = network(name, **options)
    state = jax.eval_shape(lambda: TrainState.create(init(jax.random.key(0)), OPTIMIZER, ["long"]))
    average = {"long": lambda step: jnp.float32(0.99)}
    step = make_step(PROCESS, apply, OPTIMIZER, averages=average, null_cond=np.int32(CLASSES), cond_dropout=0.1, **more)
    batch = {"x0": jnp.zeros((BATCH, *SHAPE)), "cond": np.zeros(BATCH, np.int32), "index": np.arange(BATCH)}
    return step, (state, jax.random.key(0), shapes(batch))


@pytest.mark.parametrize("name", MAKE)
def test_training_step(name):
    step, arguments = training(name, PLAIN)
    exported = lower(step, *arguments)
    assert "bf16" not in exported.mlir_module()
    kind = lambda a: (a.shape, a.dtype)
    expected = jax.tree.leaves(jax.eval_shape(step, *arguments))
    assert [kind(a) for a in exported.out_avals] == [kind(a) for a in expected]


@pytest.mark.parametrize("name", MAKE)
def test_steps_in_parts_and_in_one_dispatch(name):
    """Everything at once: bfloat16, remat, dropout, parts of a batch, a test of the result, a loop over the steps."""
    step, (state, key, batch) = training(name, MIXED, accumulate=2, skip_nonfinite=True)
    batches = jax.tree.map(lambda a: jax.ShapeDtypeStruct((STEPS, *a.shape), a.dtype), batch)
    exported = lower(several(step), state, key, batches)
    assert "bf16" in exported.mlir_module()
    assert exported.out_avals[-1].shape == (STEPS,)  # a metric of each step


LAYOUTS = {"data": {}, "fsdp": {"fsdp": 8}, "tensor": {"tensor": 8}, "all": {"fsdp": 2, "tensor": 2}}


@pytest.mark.parametrize(("name", "layout"), [*(("dit", layout) for layout in LAYOUTS), ("unet", "all")])
def test_mesh_step(name, layout):
    """One program for eight devices of any platform, which gives its state away and takes it split as the rules say."""
    mesh = parallel.make_mesh(**LAYOUTS[layout])
    step, (state, key, batch) = training(name, PLAIN)
    put = lambda a, sharding: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding)
    shardings = parallel.shardings(state, mesh)
    batch = jax.tree.map(lambda a: put(a, NamedSharding(mesh, PartitionSpec(("data", "fsdp")))), batch)
    # `lower` of a sharded step wants arrays, of devices that exist; what it compiles takes shapes.
    compiled = parallel.shard_step(step, mesh)._compiled
    exported = jax.export.export(compiled, platforms=PLATFORMS)(jax.tree.map(put, state, shardings), shapes(key), batch)
    assert (exported.platforms, exported.nr_devices, custom_calls(exported)) == (PLATFORMS, 8, set())
    signature = re.search(r"@main\((.*?)\) -> ", exported.mlir_module())[1]
    arguments = [argument for argument in signature.split("%arg") if "state." in argument]
    specs = [sharding.spec for sharding in jax.tree.leaves(shardings)]
    for argument, spec in zip(arguments, specs, strict=True):
        assert "jax.buffer_donor" in argument
        assert re.findall(r'{"(\w+)"}', argument) == [axis for axis in spec if axis], argument
    assert {axis for spec in specs for axis in spec} - {None} == {a for a in ("fsdp", "tensor") if mesh.shape[a] > 1}


def denoiser(params):
    return PROCESS.denoiser(jax.tree_util.Partial(APPLY, params))


APPLY = jax.jit(network("mlp")[1])  # a solver with many calls traces it once
PARAMS = jax.eval_shape(network("mlp")[0], jax.random.key(0))
SPEC = jax.ShapeDtypeStruct((2, *SHAPE), jnp.float32)
GRID = np.linspace(1, 0, STEPS + 1, dtype=np.float32)


@pytest.mark.parametrize("name", SOLVERS)
def test_sampling(name):
    """With the solver's and the schedule's numbers and the grid traced."""

    def draw(key, process, params, solver, grid):
        return sample(key, process, denoiser(params), solver, grid, spec=SPEC)

    exported = lower(draw, jax.random.key(0), PROCESS, PARAMS, SOLVERS[name], GRID)
    assert exported.out_avals[0].shape == SPEC.shape


def test_guided_sampling():
    """The interval's `cond` survives: outside it the second half of the network's batch is skipped on any platform."""

    def draw(key, params, cond, rule, grid):
        denoise = guidance.classifier_free(denoiser(params), cond, jnp.int32(CLASSES), rule)
        return sample(key, PROCESS, denoise, SOLVERS["dpm++ 2m"], grid, spec=SPEC)

    rule = guidance.interval(rule=guidance.scale(scale=2.0), low=0.2, high=0.8)
    module = lower(draw, jax.random.key(0), PARAMS, np.zeros(2, np.int32), rule, GRID).mlir_module()
    plain = lower(draw, jax.random.key(0), PARAMS, np.zeros(2, np.int32), rule.rule, GRID).mlir_module()
    assert module.count("stablehlo.case") > plain.count("stablehlo.case")


def test_meshed_sampling():
    mesh, spec = parallel.make_mesh(fsdp=2), jax.ShapeDtypeStruct((8, *SHAPE), jnp.float32)

    def draw(key, params, grid):
        return parallel.shard_sample(key, PROCESS, denoiser(params), SOLVERS["ddim"], grid, mesh=mesh, spec=spec)

    assert lower(draw, jax.random.key(0), PARAMS, GRID).nr_devices == 8


def test_likelihood():
    x0, key = jnp.zeros((2, *SHAPE)), jax.random.key(0)
    grid = likelihood.angle_grid(PROCESS, 2)
    lower(lambda params, x0, grid: likelihood.log_density(PROCESS, denoiser(params), x0, grid), PARAMS, x0, grid)
    probed = lambda params, x0, key: likelihood.log_density(PROCESS, denoiser(params), x0, grid, key=key, probes=2)
    lower(probed, PARAMS, x0, key)
    lower(lambda key, params, x0: likelihood.elbo(key, PROCESS, denoiser(params), x0, draws=2), key, PARAMS, x0)


def test_optimized_grid():
    fit = lambda params, probes: grids.optimized(PROCESS.schedule, 4, denoise=denoiser(params), probes=probes)
    lower(fit, PARAMS, jnp.zeros(SPEC.shape))


def test_what_a_platform_lacks_is_noticed():
    """No TPU computes eigenvalues of general matrices, no module serves three platforms that calls back to Python."""
    matrix = jnp.eye(3)
    with pytest.raises(NotImplementedError, match=r"eig.*tpu"):
        lower(lambda a: jnp.linalg.eig(a)[0], matrix)
    with pytest.raises(NotImplementedError, match="callback"):
        lower(lambda a: jax.pure_callback(np.sin, a, a), matrix)

    def calling(params, x, t, cond=None, *, key=None):
        return params["w"] * x + jax.pure_callback(np.mean, jax.ShapeDtypeStruct((), jnp.float32), t)

    step, state = make_step(PROCESS, calling, OPTIMIZER), TrainState.create({"w": jnp.ones(())}, OPTIMIZER)
    with pytest.raises(NotImplementedError, match="callback"):
        lower(step, state, jax.random.key(0), {"x0": jnp.zeros((2, 3))})


def test_calls_out_of_xla_are_noticed():
    exported = jax.export.export(jax.jit(jnp.linalg.cholesky), platforms=("cpu", "cuda"))(shapes(jnp.eye(3)))
    assert any("lapack" in name for name in custom_calls(exported))
