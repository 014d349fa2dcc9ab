"""`sample`: its starts, its noise, what it returns and what it costs. What solvers do is in tests/test_solvers.py."""

import functools

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conformance import mixture

from jaxdiff import (
    Gaussian,
    TrainState,
    grids,
    guidance,
    make_step,
    networks,
    predictions,
    sample,
    schedules,
    solvers,
)

compiled = functools.partial(jax.jit, static_argnames=("spec", "trajectory"))(sample)


def spec(batch: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((batch, 2), jnp.result_type(float))


def test_inversion_and_back():
    """Deterministic solvers run from data to noise on an increasing grid, and back to where they started."""
    with jax.enable_x64(True):
        process = Gaussian(schedule=schedules.Cosine())
        denoise, x0 = mixture().denoiser(process.schedule), mixture().sample(jax.random.key(1), 16)
        down = jnp.linspace(1, 0, 401)
        z, _ = compiled(jax.random.key(0), process, denoise, solvers.DDIM(), down[::-1], x=x0)
        assert abs(float(z.std()) - 1) < 0.3
        back, _ = compiled(jax.random.key(0), process, denoise, solvers.DDIM(), down, x=z)
        np.testing.assert_allclose(back, x0, atol=0.06)


@pytest.mark.parametrize("devices", [2, 4, 8])
def test_noise_of_a_sample_does_not_depend_on_the_devices(devices):
    process, grid = Gaussian(schedule=schedules.Cosine()), jnp.linspace(1, 0, 6)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:devices]), ("data",))
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(3), jnp.arange(8))
    denoise = jax.tree_util.Partial(lambda x, t: 0.5 * x)
    run = lambda keys: np.asarray(compiled(keys, process, denoise, solvers.Ancestral(), grid, spec=spec(8))[0])
    spread = jax.device_put(keys, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))
    np.testing.assert_array_equal(run(spread), run(keys))


def test_one_trace_serves_every_number():
    """eta, churn, guidance scale and interval, schedule and solver numbers, parameters, grid, number of steps."""
    traces = []

    def network(w, x, t, cond=None):
        traces.append(1)
        return w * x

    @jax.jit
    def run(eta, churn, scale, low, beta_max, sigma_max, w, steps):
        process = Gaussian(schedule=schedules.LinearBeta(beta_max=beta_max), prediction=predictions.v())
        denoise = process.denoiser(jax.tree_util.Partial(network, w))
        rule = guidance.interval(rule=guidance.scale(scale=scale), low=low, high=0.8)
        denoise = guidance.classifier_free(denoise, jnp.zeros(4, int), jnp.int32(1), rule)
        grid = grids.karras(process.schedule, steps, sigma_max=sigma_max, length=20)
        counts = [
            sample(jax.random.key(0), process, denoise, solver, grid, spec=spec(4))[1].nfe
            for solver in (solvers.DDIM(eta=eta), solvers.EDMStochastic(churn=churn), solvers.UniPC())
        ]
        return jnp.stack(counts)

    run(0.0, 0.0, 1.0, 0.1, 20.0, 80.0, 0.1, 20)
    first = len(traces)
    np.testing.assert_array_equal(run(1.0, 10.0, 3.0, 0.2, 10.0, 50.0, 0.2, 20), [20, 39, 20])
    np.testing.assert_array_equal(run(0.3, 5.0, 0.0, 0.0, 15.0, 20.0, 0.3, 7), [7, 13, 7])
    assert len(traces) == first


def test_trajectory_starts_at_the_noise_and_ends_at_the_sample():
    process, grid = Gaussian(schedule=schedules.Cosine()), jnp.linspace(1, 0, 6)
    denoise = mixture().denoiser(process.schedule)
    x, info = compiled(jax.random.key(0), process, denoise, solvers.DDIM(), grid, spec=spec(4), trajectory=True)
    again, _ = compiled(jax.random.key(0), process, denoise, solvers.DDIM(), grid, x=info.trajectory[0])
    assert info.trajectory.shape == (6, 4, 2)
    np.testing.assert_array_equal(info.trajectory[-1], x)
    np.testing.assert_allclose(again, x, rtol=1e-5, atol=1e-6)


def test_supplied_noise_replaces_the_keys():
    process, grid = Gaussian(schedule=schedules.Cosine()), jnp.linspace(1, 0, 4)
    x, noise = jnp.ones((2, 2)), jax.random.normal(jax.random.key(5), (3, 1, 2, 2))
    run = lambda key: compiled(
        jax.random.key(key), process, mixture().denoiser(process.schedule), solvers.Ancestral(), grid, x=x, noise=noise
    )[0]
    np.testing.assert_array_equal(run(0), run(1))


def test_data_with_noise_are_a_start():
    """SDEdit: x0 noised to the grid's first time; from a late one the data are kept, from an early one replaced."""
    law, process = mixture(), Gaussian(schedule=schedules.Cosine())
    data = jnp.broadcast_to(jnp.array([1.0, 0.8]), (2000, 2))  # the middle of the first component
    changed = []
    for start in (0.05, 0.3, 1.0):
        grid = jnp.linspace(start, 0, 30)
        x, info = compiled(
            jax.random.key(0),
            process,
            law.denoiser(process.schedule),
            solvers.DPMpp2M(),
            grid,
            x0=data,
            trajectory=True,
        )
        alpha, sigma = process.schedule(start)
        np.testing.assert_allclose(info.trajectory[0].mean(0), alpha * data[0], atol=0.1)
        np.testing.assert_allclose(info.trajectory[0].std(0), sigma, rtol=0.06)
        changed.append(float(jnp.abs(x - data).mean()))
    assert changed[0] < 0.1 < changed[1] < changed[2] and changed[2] > 1


def test_record_keeps_what_it_is_asked_for():
    process, grid = Gaussian(schedule=schedules.Cosine()), jnp.linspace(1, 0, 6)
    kept = lambda x, s, state: {"mean": x.mean(), "time": s, "level": state.places[0]}
    run = jax.jit(sample, static_argnames=("spec", "record", "trajectory"))
    denoise = mixture().denoiser(process.schedule)
    arguments = jax.random.key(0), process, denoise, solvers.DPMpp2M(), grid
    _, info = run(*arguments, spec=spec(4), record=kept, trajectory=True)
    np.testing.assert_array_equal(info.records["time"], grid[1:])
    np.testing.assert_allclose(info.records["mean"], info.trajectory[1:].mean((1, 2)), rtol=1e-5)
    assert info.records["level"].shape == (5,)
    assert run(*arguments, spec=spec(4))[1].records is None


def test_gradients_and_vmap_pass_through():
    """The derivative of a sample with respect to a parameter, the noise and the grid, against central differences."""
    process = Gaussian(schedule=schedules.LinearBeta())
    x = np.array([[0.4, -0.2], [1.0, 0.3]])

    def end(w, x, solver):
        denoise = process.denoiser(jax.tree_util.Partial(lambda w, x, t, cond=None: jnp.sin(w * x), w))
        return (
            sample(jax.random.key(0), process, denoise, solver, jnp.linspace(1, 0, 6), x=jnp.asarray(x))[0] ** 2
        ).sum()

    with jax.enable_x64(True):
        for solver in (
            solvers.DDIM(eta=0.5),
            solvers.Heun(),
            solvers.DPMpp3M(start=solvers.DPMpp2S()),
            solvers.UniPC(),
        ):
            value = jax.jit(lambda w, solver=solver: end(w, x, solver))
            slope, h = jax.jit(jax.grad(value))(jnp.float64(0.7)), 1e-6
            numeric = (value(0.7 + h) - value(jnp.float64(0.7 - h))) / (2 * h)
            np.testing.assert_allclose(slope, numeric, rtol=1e-5)
            many = jax.jit(jax.vmap(value))(jnp.array([0.2, 0.7]))
            np.testing.assert_allclose(many[1], value(jnp.float64(0.7)), rtol=1e-8)


@pytest.mark.parametrize(("double", "tolerance"), [(False, 1e-4), (True, 1e-10)])
def test_networks_give_the_same_samples_for_every_split(double, tolerance):
    """20 deterministic steps of a network; sums over its width may be taken in another order."""
    init, apply = networks.functional(lambda rngs: networks.MLP((2,), width=32, depth=2, rngs=rngs))
    with jax.enable_x64(double):
        params = jax.tree.map(
            lambda p: p + 0.1 * jax.random.normal(jax.random.key(1), p.shape), init(jax.random.key(0))
        )
        if double:  # networks return float32 by contract; the sampler's own arithmetic is what is asked about
            apply_ = lambda params, x, t, cond=None: jnp.tanh(x @ jnp.array([[0.3, 0.2], [-0.4, 0.5]]) + t)
        else:
            apply_ = apply
        process = Gaussian(schedule=schedules.Cosine())
        denoise = process.denoiser(jax.tree_util.Partial(apply_, params))
        run = lambda first, size: np.asarray(
            compiled(
                jax.random.key(3),
                process,
                denoise,
                solvers.DPMpp2M(),
                jnp.linspace(1, 0, 21),
                spec=spec(size),
                first=first,
            )[0]
        )
        whole, parts = run(0, 16), np.concatenate([run(0, 5), run(5, 11)])
        np.testing.assert_allclose(parts, whole, rtol=tolerance, atol=tolerance * np.abs(whole).max())


def test_a_linen_module_and_a_bare_function_serve_as_networks():
    class Net(flax.linen.Module):
        @flax.linen.compact
        def __call__(self, x, t, cond=None):
            return flax.linen.Dense(2)(jnp.concatenate([x, jnp.broadcast_to(t, x.shape[:1])[:, None]], 1))

    net, process = Net(), Gaussian(schedule=schedules.Cosine())
    params = net.init(jax.random.key(0), jnp.zeros((1, 2)), jnp.zeros(()))
    apply = lambda params, x, t, cond=None, *, s=None, key=None: net.apply(params, x, t, cond)
    step = jax.jit(make_step(process, apply, optax.sgd(1e-2)))
    state = TrainState.create(params, optax.sgd(1e-2))
    state, metrics = step(state, jax.random.key(0), {"x0": jnp.ones((8, 2))})
    assert jnp.isfinite(metrics["loss"])
    bare = lambda x, t, cond=None: 0.1 * x
    for network in (jax.tree_util.Partial(apply, state.ema), bare):
        denoise = process.denoiser(network)
        x, _ = compiled(jax.random.key(0), process, denoise, solvers.DDIM(), jnp.linspace(1, 0, 4), spec=spec(3))
        assert x.shape == (3, 2) and jnp.isfinite(x).all()


def test_memory_does_not_grow_with_steps():
    process = Gaussian(schedule=schedules.Cosine())
    used = []
    for steps in (10, 1000):
        lowered = compiled.lower(
            jax.random.key(0),
            process,
            mixture().denoiser(process.schedule),
            solvers.DPMpp2M(),
            jnp.linspace(1, 0, steps + 1),
            spec=spec(1024),
        )
        used.append(lowered.compile().memory_analysis().temp_size_in_bytes)
    assert used[1] - used[0] <= 4 * 990 + 128  # the grid itself, and alignment


PROCESS = Gaussian(schedule=schedules.Cosine())
OK = {"key": jax.random.key(0), "grid": jnp.linspace(1, 0, 3), "spec": jax.ShapeDtypeStruct((2, 2), jnp.float32)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": jnp.ones((2, 2))}, "exactly one of spec"),
        ({"spec": None}, "exactly one of spec"),
        ({"key": jax.random.split(jax.random.key(0), 3)}, "one key or one per sample"),
        ({"grid": jnp.ones(1)}, r"steps \+ 1"),
        ({"noise": jnp.zeros((5, 1, 2, 2))}, "noise must have shape"),
    ],
)
def test_bad_arguments_are_refused(change, message):
    arguments = {**OK, **change}
    with pytest.raises(ValueError, match=message):
        sample(
            arguments.pop("key"), PROCESS, lambda x, t, cond=None: x, solvers.DDIM(), arguments.pop("grid"), **arguments
        )
