"""Every solver of the conformance list, against the exact denoiser of a Gaussian mixture."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conformance import GRIDS, SCHEDULES, SMOOTH, SOLVERS, STOCHASTIC, mixture

from jaxdiff import Gaussian, grids, predictions, sample, schedules, solvers

compiled = functools.partial(jax.jit, static_argnames=("spec", "trajectory"))(sample)
DETERMINISTIC = [name for name in SOLVERS if name not in STOCHASTIC]


def spec(batch: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((batch, 2), jnp.result_type(float))


@pytest.mark.parametrize("s", SMOOTH)
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_order_of_convergence(name, s):
    """The error against a fine solution falls like steps^-order, on an interior interval of time."""
    with jax.enable_x64(True):
        schedule, solver = SCHEDULES[s], SOLVERS[name]
        process, denoise = Gaussian(schedule=schedule), mixture().denoiser(schedule)
        x = 0.8 * jax.random.normal(jax.random.key(0), (64, 2))
        solve = lambda solver, n: compiled(
            jax.random.key(0), process, denoise, solver, jnp.linspace(0.7, 0.15, n + 1), x=x
        )[0]
        exact = solve(SOLVERS["heun"], 4096)
        steps = np.array([64, 128, 256])
        errors = [float(jnp.sqrt(((solve(solver, n) - exact) ** 2).mean())) for n in steps]
        order = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
        assert abs(order - solver.order) < 0.15, (order, errors)


@pytest.mark.parametrize("s", SCHEDULES)
@pytest.mark.parametrize("name", SOLVERS)
def test_samples_follow_the_data(name, s):
    """Means and covariances of 4,000 samples in 60 steps, within what sampling error and 60 steps allow."""
    schedule = SCHEDULES[s]
    if name == "euler" and s == "variance exploding":
        pytest.skip("Euler in geometric time needs thousands of steps; its order is tested above")
    grid = grids.karras(schedule, 60, sigma_min=0.02)
    x, _ = compiled(
        jax.random.key(0),
        Gaussian(schedule=schedule),
        mixture().denoiser(schedule),
        SOLVERS[name],
        grid,
        spec=spec(4000),
    )
    data = mixture().sample(jax.random.key(7), 200_000)
    np.testing.assert_allclose(x.mean(0), data.mean(0), atol=0.06)
    np.testing.assert_allclose(np.cov(x.T), np.cov(data.T), atol=0.08)


def test_ddim_with_eta_one_is_ancestral():
    process = Gaussian(schedule=schedules.LinearBeta())
    run = lambda solver: compiled(
        jax.random.key(0), process, mixture().denoiser(process.schedule), solver, jnp.linspace(1, 0, 21), spec=spec(8)
    )[0]
    np.testing.assert_allclose(run(solvers.DDIM(eta=1.0)), run(solvers.Ancestral()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("solver", [solvers.DPMpp2M(), solvers.Euler(), solvers.Heun()])
def test_one_step_to_the_data_is_ddim(solver):
    """Reductions: the last step of every solver returns the denoised value."""
    process = Gaussian(schedule=schedules.Cosine())
    x = jax.random.normal(jax.random.key(0), (8, 2))
    denoise = mixture().denoiser(process.schedule)
    last, _ = compiled(jax.random.key(0), process, denoise, solver, jnp.array([0.6, 0.0]), x=x)
    np.testing.assert_array_equal(last, jax.jit(lambda denoise: denoise(x, jnp.float32(0.6)))(denoise))


def test_euler_in_edm_time_is_ddim():
    process = Gaussian(schedule=schedules.EDM())
    run = lambda solver: compiled(
        jax.random.key(0),
        process,
        mixture().denoiser(process.schedule),
        solver,
        grids.karras(process.schedule, 20),
        spec=spec(8),
    )[0]
    np.testing.assert_allclose(run(solvers.Euler()), run(solvers.DDIM()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("s", SCHEDULES)
def test_inversion_starts_from_data(name, s):
    """From exact data, t = 0, every deterministic solver goes to noise without a NaN."""
    process = Gaussian(schedule=SCHEDULES[s])
    x0, denoise = mixture().sample(jax.random.key(1), 8), mixture().denoiser(process.schedule)
    z, _ = compiled(jax.random.key(0), process, denoise, SOLVERS[name], jnp.linspace(0, 1, 9), x=x0)
    assert jnp.isfinite(z).all()


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


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("to_data", [True, False])
@pytest.mark.parametrize("name", SOLVERS)
def test_nfe_is_what_a_counting_denoiser_counts(name, to_data, padding):
    calls = []
    process = Gaussian(schedule=schedules.Cosine())

    def denoise(x, t, cond=None):
        jax.debug.callback(lambda _: calls.append(1), t)
        return 0.5 * x

    end = 0.0 if to_data else 0.2
    grid = jnp.concatenate([jnp.linspace(1, end, 8), jnp.full(padding, end)])
    _, info = sample(jax.random.key(0), process, denoise, SOLVERS[name], grid, x=jnp.ones((2, 2)))
    jax.effects_barrier()
    assert len(calls) == int(info.nfe)


@pytest.mark.parametrize("name", SOLVERS)
def test_noise_of_a_sample_does_not_depend_on_the_batch(name):
    """Bit-equal with an elementwise denoiser, however the batch is cut."""
    process, grid = Gaussian(schedule=schedules.Cosine()), jnp.linspace(1, 0, 6)
    run = lambda first, size: np.asarray(
        compiled(
            jax.random.key(3),
            process,
            jax.tree_util.Partial(lambda x, t: 0.5 * x),
            SOLVERS[name],
            grid,
            spec=spec(size),
            first=first,
        )[0]
    )
    whole = run(0, 8)
    np.testing.assert_array_equal(np.concatenate([run(0, 3), run(3, 5)]), whole)


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
    """Solver numbers, schedule numbers, network parameters, grids and fewer steps: one compilation."""
    traces = []

    def network(w, x, t, cond=None):
        traces.append(1)
        return w * x

    def run(eta, beta_max, w, grid):
        process = Gaussian(schedule=schedules.LinearBeta(beta_max=beta_max), prediction=predictions.v())
        denoise = process.denoiser(jax.tree_util.Partial(network, w))
        return compiled(jax.random.key(0), process, denoise, solvers.DDIM(eta=eta), grid, spec=spec(4))[1].nfe

    full, half = jnp.linspace(1, 0, 11), jnp.linspace(1, 0, 6)
    padded = jnp.concatenate([half, jnp.zeros(5)])
    run(0.0, 20.0, 0.1, full)
    first = len(traces)
    assert int(run(1.0, 10.0, 0.2, full)) == 10
    assert int(run(0.3, 15.0, 0.3, padded)) == 5
    assert len(traces) == first


def test_padding_changes_nothing():
    process, short = Gaussian(schedule=schedules.Cosine()), jnp.linspace(1, 0, 6)
    padded = jnp.concatenate([short, jnp.zeros(5)])
    for name, solver in SOLVERS.items():
        run = lambda grid: compiled(
            jax.random.key(0), process, mixture().denoiser(process.schedule), solver, grid, spec=spec(4)
        )[0]
        np.testing.assert_allclose(run(padded), run(short), rtol=1e-5, atol=1e-6, err_msg=name)


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


@pytest.mark.parametrize("g", GRIDS)
@pytest.mark.parametrize("s", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 3, 50])
def test_grids_run_from_exactly_one_to_exactly_zero(g, s, steps):
    times = np.asarray(GRIDS[g](SCHEDULES[s], steps))
    assert times.shape == (steps + 1,)
    assert (times[0], times[-1]) == (1.0, 0.0)
    assert (np.diff(times) < 0).all()


def test_karras_grid_is_that_of_the_paper():
    """arXiv 2206.00364, eq. 5, on the schedule whose time is the noise scale."""
    i, n = np.arange(10), 10
    paper = (80 ** (1 / 7) + i / (n - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(80 * grids.karras(schedules.EDM(), n)[:-1], paper, rtol=1e-4)


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


@pytest.mark.parametrize("times", [[0.0, 0.5, 0.2], [1.0], [1.5, 0.0], [[1.0, 0.0]]])
def test_from_times_refuses(times):
    with pytest.raises(ValueError, match="grid"):
        grids.from_times(jnp.array(times))
