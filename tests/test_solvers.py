"""What every solver of the conformance list must do, whatever the schedule, the grid and the prediction.

One compiled program for each solver serves all of them: schedules and predictions are chosen by numbers, grids are
padded to one length.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from conformance import (
    COUNTS_ITSELF,
    FOR_CONSISTENCY,
    GRIDS,
    PREDICTIONS,
    SCHEDULES,
    SOLVERS,
    STOCHASTIC,
    OneOfPredictions,
    OneOfSchedules,
    mixture,
)

from jaxdiff import Gaussian, grids, noise, sample, schedules, solvers

compiled = jax.jit(sample, static_argnames=("spec",), compiler_options={"xla_backend_optimization_level": 0})
DETERMINISTIC = [name for name in SOLVERS if name not in STOCHASTIC]
# Solvers of dx/dt in t need thousands of steps where t is geometric in the noise scale.
IN_TIME = ("euler", "euler ancestral", "euler-maruyama", "heun", "edm", "restart", "lms 2", "lms 4")
UNEVEN = ("variance exploding",)


def spec(batch):
    return jax.ShapeDtypeStruct((batch, 2), jnp.float32)


@functools.cache
def some_grid(name, schedule, steps, length):
    times = GRIDS[name](SCHEDULES[schedule], steps)
    return jnp.concatenate([times, jnp.full(length - steps, times[-1])])


CHOICES = {"schedule": list(SCHEDULES), "grid": list(GRIDS), "prediction": list(PREDICTIONS), "steps": [1, 2, 3]}


@functools.cache
def pairwise():
    """Cases (solver, schedule, grid, prediction, steps) in which every two values of two of these lists meet."""
    rng, lists = np.random.default_rng(0), [list(SOLVERS), *CHOICES.values()]
    any_of = lambda values: values[rng.integers(len(values))]
    met = itertools.product(lists[0], lists[2])
    rows = [(solver, any_of(lists[1]), grid, *map(any_of, lists[3:])) for solver, grid in met]
    for i, j in itertools.combinations(range(5), 2):
        for pair in set(itertools.product(lists[i], lists[j])) - {(row[i], row[j]) for row in rows}:
            row = [*map(any_of, lists)]
            row[i], row[j] = pair
            rows.append(tuple(row))
    return rows


@functools.cache
def process_of(schedule, prediction):
    """The process with both chosen by number, or None where the pair is refused."""
    try:
        Gaussian(schedule=SCHEDULES[schedule], prediction=PREDICTIONS[prediction])
    except ValueError:  # which pairs, and in which words: tests/test_processes.py
        return None
    chosen = lambda cls, which: cls(which=jnp.asarray(which))
    build = jax.jit(lambda s, p: Gaussian(schedule=s, prediction=p))  # traced: the pair has been checked
    return build(
        chosen(OneOfSchedules, list(SCHEDULES).index(schedule)),
        chosen(OneOfPredictions, list(PREDICTIONS).index(prediction)),
    )


def check_finite(name, cases):
    network = jax.tree_util.Partial(lambda x, t, cond=None: jnp.tanh(x))
    refused = 0
    for schedule, grid, prediction, steps in cases:
        process = process_of(schedule, prediction)
        if process is None:
            refused += 1
            continue
        times = some_grid(grid, schedule, steps, 3)
        x, _ = compiled(jax.random.key(0), process, process.denoiser(network), SOLVERS[name], times, spec=spec(3))
        assert jnp.isfinite(x).all(), (schedule, grid, prediction, steps)
    assert refused < len(cases)


@pytest.mark.parametrize("name", SOLVERS)
def test_finite_for_few_steps(name):
    """On 1, 2 and 3 steps: every pair of solver, schedule, grid, prediction and number of steps comes up."""
    check_finite(name, [row[1:] for row in pairwise() if row[0] == name])


@pytest.mark.slow
@pytest.mark.parametrize("name", SOLVERS)
def test_finite_for_few_steps_everywhere(name):
    """The full product."""
    check_finite(name, list(itertools.product(*CHOICES.values())))


def check_law(name, names):
    """4,000 samples in 60 steps, by their moments and by two-sample tests along three directions.

    And from exact data, t = 0, deterministic solvers go to noise without a NaN.
    """
    law, solver = mixture(), SOLVERS[name]
    data = law.sample(jax.random.key(7), 200_000)
    keys = noise.sample_keys(jax.random.key(0), 4000)
    upwards = jnp.concatenate([jnp.linspace(0, 1, 9), jnp.ones(52)])
    for i, s in enumerate(names):
        if name in IN_TIME and s in UNEVEN:
            continue
        schedule = OneOfSchedules(which=jnp.asarray(i), names=names)
        process, denoise = Gaussian(schedule=schedule), law.denoiser(schedule)
        if name not in FOR_CONSISTENCY:
            prior = process.prior(noise.fold(keys, 0), spec(4000))
            grid = grids.karras(SCHEDULES[s], 60, sigma_min=0.02)
            x, _ = compiled(keys, process, denoise, solver, grid, x=prior)
            np.testing.assert_allclose(x.mean(0), data.mean(0), atol=0.06, err_msg=s)
            np.testing.assert_allclose(np.cov(x.T), np.cov(data.T), atol=0.08, err_msg=s)
            for direction in ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0)):
                along = [np.asarray(points[:1000] @ jnp.array(direction)) for points in (x, data)]
                assert scipy.stats.ks_2samp(*along).pvalue > 1e-4, (s, direction)
        if name in DETERMINISTIC:
            z, _ = compiled(keys, process, denoise, solver, upwards, x=data[:4000])
            assert jnp.isfinite(z).all(), s


@pytest.mark.parametrize("name", SOLVERS)
def test_samples_follow_the_data_and_lead_back_to_noise(name):
    """On three schedules, others for each solver."""
    first = list(SOLVERS).index(name)
    check_law(name, tuple(list(SCHEDULES)[(3 * first + 2 * i) % len(SCHEDULES)] for i in range(3)))


@pytest.mark.slow
@pytest.mark.parametrize("name", SOLVERS)
def test_samples_follow_the_data_on_every_schedule(name):
    check_law(name, tuple(SCHEDULES))


@pytest.mark.parametrize("name", SOLVERS)
def test_nfe_is_what_a_counting_denoiser_counts(name):
    """On grids that end at the data or in noise, with and without steps that do nothing."""
    calls, solver = [], SOLVERS[name]
    process = Gaussian(schedule=schedules.Cosine())

    def denoise(x, t, cond=None):
        jax.debug.callback(lambda _: calls.append(1), t)
        return 0.5 * x

    run = jax.jit(lambda grid: sample(jax.random.key(0), process, denoise, solver, grid, x=jnp.ones((2, 2)))[1].nfe)
    for end, steps in itertools.product((0.0, 0.2), (10, 7)):
        calls.clear()
        grid = jnp.concatenate([jnp.linspace(1, end, steps + 1), jnp.full(10 - steps, end)])
        nfe = int(run(grid))
        jax.effects_barrier()
        assert len(calls) == nfe, (end, steps)
        if name not in COUNTS_ITSELF:
            assert int(solver.nfe(grid)) == nfe


@pytest.mark.parametrize("name", SOLVERS)
def test_noise_of_a_sample_does_not_depend_on_the_batch(name):
    """Bit-equal with an elementwise denoiser, however the batch is cut; and a grid's idle steps may stand anywhere.

    Where a step sums many products (multistep methods) XLA may fuse them in another way for another size: one unit in
    the last place.
    """
    process = Gaussian(schedule=schedules.Cosine())
    denoise = jax.tree_util.Partial(lambda x, t: 0.5 * x)
    times = jnp.linspace(1, 0, 6)
    run = lambda first, size, grid: np.asarray(
        compiled(jax.random.key(3), process, denoise, SOLVERS[name], grid, spec=spec(size), first=first)[0]
    )
    at_the_end = jnp.concatenate([times, jnp.zeros(2)])
    whole = run(0, 8, at_the_end)
    parts = np.concatenate([run(0, 3, at_the_end), run(3, 3, at_the_end)])
    if jax.tree.leaves(SOLVERS[name].init(process, jnp.zeros((2, 2)), times)):
        np.testing.assert_allclose(parts, whole[:6], rtol=1e-6, atol=1e-6)
    else:
        np.testing.assert_array_equal(parts, whole[:6])
    if name in DETERMINISTIC:
        within = jnp.sort(jnp.concatenate([times, times[2:4]]))[::-1]
        np.testing.assert_allclose(run(0, 8, within), whole, rtol=1e-5, atol=1e-6)


def same(a, b, process, *, grid=None, denoise=None, **tolerance):
    """Two solvers give the same samples."""
    denoise = denoise or mixture().denoiser(process.schedule)
    grid = jnp.linspace(1, 0, 21) if grid is None else grid
    runs = [compiled(jax.random.key(0), process, denoise, solver, grid, spec=spec(8))[0] for solver in (a, b)]
    np.testing.assert_allclose(*runs, **({"rtol": 1e-4, "atol": 1e-4} | tolerance))


VP = Gaussian(schedule=schedules.LinearBeta())
REDUCTIONS = {
    "DDIM with eta = 1 is Ancestral": (solvers.DDIM(eta=1.0), solvers.Ancestral()),
    "SDE 2M with eta = 0 is 2M": (solvers.DPMpp2MSDE(eta=0.0), solvers.DPMpp2M()),
    "SDE with eta = 0 is 2S": (solvers.DPMppSDE(eta=0.0), solvers.DPMpp2S()),
    "EDM without churn is Heun": (solvers.EDMStochastic(churn=0.0), solvers.Heun()),
    "Euler ancestral with eta = 0 is Euler": (solvers.EulerAncestral(eta=0.0), solvers.Euler()),
    "Euler-Maruyama with eta = 0 is Euler": (solvers.EulerMaruyama(eta=0.0), solvers.Euler()),
    "LMS of order 1 is Euler": (solvers.LMS(order=1), solvers.Euler()),
    "DEIS of order 1 is DDIM": (solvers.DEIS(order=1), solvers.DDIM()),
    "LCM with gamma = 0 is DDIM": (solvers.LCM(gamma=0.0), solvers.DDIM()),
    "Restart no times is its inner solver": (
        solvers.Restart(inner=solvers.Heun(), low=0.3, high=0.6, times=0),
        solvers.Heun(),
    ),
    "a corrector of no size is its predictor": (
        solvers.PredictorCorrector(inner=solvers.DDIM(), snr=0.0),
        solvers.DDIM(),
    ),
}


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions(name):
    same(*REDUCTIONS[name], VP)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_euler_on_edm_time_is_ddim(eta):
    process = Gaussian(schedule=schedules.EDM())
    grid = grids.karras(process.schedule, 20)
    same(solvers.EulerAncestral(eta=eta), solvers.DDIM(eta=eta), process, grid=grid, atol=1e-3)


BY_DATA = ("dpm++ 2s", "dpm++ 3s", "dpm++ 2m", "dpm++ 3m", "unipc 1", "unipc 2", "unipc 2 bh1", "unipc 3", "ddim")
BY_NOISE = ("deis 2", "deis 3", "pndm", "dpm-solver 2", "ddim")


@pytest.mark.parametrize("name", dict.fromkeys(BY_DATA + BY_NOISE))
def test_exponential_integrators_are_exact_where_their_unknown_is_constant(name):
    """One denoised value everywhere, or one noise: DDIM's step is the solution, and theirs is DDIM's."""
    point = jnp.array([0.3, -0.8])
    data = jax.tree_util.Partial(lambda x, t, cond=None: jnp.broadcast_to(point, x.shape))

    def one_noise(x, t, cond=None):
        alpha, sigma = VP.schedule(t)
        return (x - sigma * point) / alpha

    grid = jnp.linspace(0.9, 0.1, 7)
    if name in BY_DATA:
        same(SOLVERS[name], solvers.DDIM(), VP, grid=grid, denoise=data)
    if name in BY_NOISE:
        same(SOLVERS[name], solvers.DDIM(), VP, grid=grid, denoise=jax.tree_util.Partial(one_noise))


@pytest.mark.parametrize("name", [name for name in SOLVERS if name not in ("restart", "predictor-corrector")])
def test_one_step_to_the_data_returns_the_denoised_value(name):
    process = Gaussian(schedule=schedules.Cosine())
    x, denoise = jax.random.normal(jax.random.key(0), (8, 2)), mixture().denoiser(process.schedule)
    last, _ = compiled(jax.random.key(0), process, denoise, SOLVERS[name], jnp.array([0.6, 0.0]), x=x)
    if name != "edm":  # it denoises at the time to which it added noise
        np.testing.assert_allclose(last, denoise(x, jnp.float32(0.6)), rtol=1e-5, atol=1e-6)
    assert jnp.isfinite(last).all()


def test_lower_final_makes_the_last_step_ddim():
    """Where it ends in noise: the same trajectory up to the last step, and then DDIM's."""
    process, grid = Gaussian(schedule=schedules.Cosine()), jnp.linspace(0.9, 0.2, 7)
    denoise, x = mixture().denoiser(process.schedule), jax.random.normal(jax.random.key(0), (8, 2))
    run = lambda solver, grid, x: compiled(jax.random.key(0), process, denoise, solver, grid, x=x)[0]
    before = run(solvers.DPMpp2M(), grid[:-1], x)
    lowered = run(solvers.DPMpp2M(lower_final=True), grid, x)
    np.testing.assert_allclose(lowered, run(solvers.DDIM(), grid[-2:], before), rtol=1e-4, atol=1e-5)
    assert jnp.abs(lowered - run(solvers.DPMpp2M(), grid, x)).max() > 1e-3


def test_adaptive_meets_its_tolerance():
    """Ten times less tolerance, about ten times less error, at the cost of a third-order method."""
    process = Gaussian(schedule=schedules.Cosine())
    denoise, x = mixture().denoiser(process.schedule), jax.random.normal(jax.random.key(0), (32, 2))
    errors, costs, tolerances = [], [], (1e-5, 1e-6, 1e-7, 1e-8)
    with jax.enable_x64(True):
        run = lambda tolerance: compiled(
            jax.random.key(0),
            process,
            denoise,
            solvers.Adaptive(rtol=tolerance, atol=tolerance),
            jnp.array([0.9, 0.1]),
            x=x.astype(float),
        )
        exact = run(1e-11)[0]
        for tolerance in tolerances:
            found, info = run(tolerance)
            errors.append(float(jnp.abs(found - exact).max()))
            costs.append(int(info.nfe))
    assert all(error < 30 * tolerance for error, tolerance in zip(errors, tolerances, strict=True))
    order = -np.polyfit(np.log(costs), np.log(errors), 1)[0]
    assert 2.5 < order < 3.7, (costs, errors)


def test_adaptive_says_when_it_gives_up():
    process = Gaussian(schedule=schedules.Cosine())
    solver, grid = solvers.Adaptive(rtol=1e-6, atol=1e-6, most=3), jnp.array([0.9, 0.1])
    x, _ = compiled(jax.random.key(0), process, mixture().denoiser(process.schedule), solver, grid, spec=spec(2))
    assert jnp.isnan(x).all()


@pytest.mark.parametrize("steps", [1, 4])
def test_a_consistency_model_samples_in_any_number_of_steps(steps):
    """With the exact map from x_t to the data (one Gaussian), LCM's samples have the law of the data."""
    mean, std = jnp.array([0.5, -1.0]), jnp.array([0.3, 2.0])
    process = Gaussian(schedule=schedules.Cosine())

    def to_data(x, t, cond=None):
        alpha, sigma = process.schedule(t)
        return mean + std / jnp.sqrt(alpha**2 * std**2 + sigma**2) * (x - alpha * mean)

    grid, denoise = jnp.linspace(1, 0, steps + 1), jax.tree_util.Partial(to_data)
    x, _ = compiled(jax.random.key(0), process, denoise, solvers.LCM(), grid, spec=spec(20_000))
    np.testing.assert_allclose(x.mean(0), mean, atol=0.05)
    np.testing.assert_allclose(x.std(0), std, rtol=0.03)


BAD = {
    "order of LMS": (lambda: solvers.LMS(order=5), "1 to 4, got 5"),
    "order of DEIS": (lambda: solvers.DEIS(order=0), "1 to 4, got 0"),
    "p of UniPC": (lambda: solvers.UniPC(p=4), "1 to 3, got 4"),
    "a history inside Restart": (
        lambda: same(solvers.Restart(inner=solvers.DPMpp2M(), low=0.3, high=0.6), solvers.Heun(), VP),
        "without history, got DPMpp2M",
    ),
    "nfe of Adaptive": (lambda: solvers.Adaptive().nfe(jnp.linspace(1, 0, 3)), "info.nfe"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_refused(name):
    make, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        make()
