"""Every grid on every schedule: ends, order, one trace for any number of steps, and the formulas they are named for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from conformance import GRIDS, SCHEDULES, STARTS_BELOW_ONE, mixture

from jaxdiff import Gaussian, grids, noise, sample, schedules, solvers

SCHEDULE = schedules.Cosine()
ALL = pytest.mark.parametrize("g", GRIDS)
compiled = functools.partial(jax.jit, static_argnames=("spec", "trajectory"))(sample)


@ALL
@pytest.mark.parametrize("s", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 3, 50])
def test_grids_run_from_exactly_one_to_exactly_zero(g, s, steps):
    times = np.asarray(GRIDS[g](SCHEDULES[s], steps))
    assert times.shape == (steps + 1,)
    assert times[-1] == 0
    assert (0 < times[0] < 1) if g in STARTS_BELOW_ONE else times[0] == 1
    assert (np.diff(times) < 0).all()


@ALL
@pytest.mark.parametrize("s", ["cosine", "from betas", "shifted"])
def test_one_trace_serves_every_number_of_steps(g, s):
    traces = []

    @jax.jit
    def padded(steps):
        traces.append(1)
        return GRIDS[g](SCHEDULES[s], steps, length=50)

    for steps in (1, 2, 7, 49, 50):
        times, plain = np.asarray(padded(steps)), np.asarray(GRIDS[g](SCHEDULES[s], steps))
        np.testing.assert_allclose(times[: steps + 1], plain, rtol=1e-5)
        assert (times[steps:] == 0).all() and (np.diff(times[: steps + 1]) < 0).all()
        np.testing.assert_allclose(GRIDS[g](SCHEDULES[s], steps, length=50), times, rtol=1e-5)
    assert len(traces) == 1
    # Nothing can be refused in a compiled program, so nothing is made up either.
    assert jnp.isnan(padded(51)).all() and jnp.isnan(padded(0)).all()


@ALL
def test_bad_numbers_of_steps_are_refused(g):
    for steps, length, message in ((0, None, "at least 1 step"), (5, 4, "do not fit into length = 4")):
        with pytest.raises(ValueError, match=message):
            GRIDS[g](SCHEDULE, steps, length=length)
    with pytest.raises(ValueError, match="pass length"):
        jax.jit(lambda steps: GRIDS[g](SCHEDULE, steps))(3)


@ALL
def test_grids_are_pure_and_take_traced_schedules(g):
    times = jax.jit(lambda b: GRIDS[g](schedules.LinearBeta(beta_max=b), 9))(15.0)
    np.testing.assert_allclose(times, GRIDS[g](schedules.LinearBeta(beta_max=15.0), 9), rtol=1e-5)


def test_padding_changes_no_sample():
    """A padded grid visits the same times: in a sampler it gives what the plain one gives, at the same cost."""
    process, spec = Gaussian(schedule=SCHEDULE), jax.ShapeDtypeStruct((4, 2), jnp.float32)
    run = lambda grid: compiled(
        jax.random.key(0), process, mixture().denoiser(SCHEDULE), solvers.DPMpp2M(), grid, spec=spec
    )
    (x, info), (expected, plain) = run(grids.karras(SCHEDULE, 6, length=11)), run(grids.karras(SCHEDULE, 6))
    np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-6)
    assert int(info.nfe) == int(plain.nfe) == 6


def test_karras_grid_is_that_of_the_paper():
    """arXiv 2206.00364, eq. 5, on the schedule whose time is the noise scale."""
    i, n = np.arange(10), 10
    paper = (80 ** (1 / 7) + i / (n - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(80 * grids.karras(schedules.EDM(), n)[:-1], paper, rtol=1e-4)


@pytest.mark.parametrize("rho", [0.5, 1.0, 2.0])
def test_poly_exponential_is_k_diffusions(rho):
    ramp = np.linspace(1, 0, 10) ** rho
    sigmas = np.exp(ramp * (np.log(80) - np.log(0.01)) + np.log(0.01))
    times = grids.poly_exponential(schedules.EDM(), 10, sigma_min=0.01, rho=rho)
    np.testing.assert_allclose(80 * times[:-1], sigmas, rtol=1e-5)


def test_logsnr_steps_are_equal():
    levels = schedules.logsnr(SCHEDULE, grids.logsnr(SCHEDULE, 12, sigma_min=0.01, sigma_max=50.0)[1:-1])
    np.testing.assert_allclose(np.diff(levels), 2 * np.log(50 / 0.01) / 11, rtol=1e-4)


@pytest.mark.parametrize(("a", "b"), [(0.6, 0.6), (1.0, 1.0), (0.5, 2.0), (3.0, 1.5)])
@pytest.mark.parametrize("steps", [1, 10, 200])
def test_beta_times_are_quantiles(a, b, steps):
    exact = scipy.stats.beta.ppf(1 - np.arange(steps + 1) / steps, a, b)
    np.testing.assert_allclose(grids.beta(SCHEDULE, steps, a=a, b=b), exact, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("steps", [2, 3, 10, 51])
@pytest.mark.parametrize("threshold", [0.025, 0.2])
def test_linear_quadratic_is_as_it_is_defined(steps, threshold):
    """Half the steps reach 1 - threshold in equal steps; a parabola goes on with the same slope, to 0."""
    times, half = np.asarray(grids.linear_quadratic(SCHEDULE, steps, threshold=threshold), np.float64), steps // 2
    np.testing.assert_allclose(times[: half + 1], 1 - threshold * np.arange(half + 1) / half, rtol=1e-6)
    parabola = np.polynomial.Polynomial.fit(np.arange(half, steps + 1), times[half:], min(2, steps - half))
    np.testing.assert_allclose(parabola(np.arange(half, steps + 1)), times[half:], atol=1e-6)
    if steps - half > 1:
        np.testing.assert_allclose(parabola.deriv()(half), -threshold / half, rtol=1e-3)


SPACINGS = {  # arXiv 2305.08891, table 2, counted from 0; what diffusers' set_timesteps computes
    "trailing": lambda k, n: np.round(np.arange(k, 0, -k / n)) - 1,
    "leading": lambda k, n: (np.arange(n) * (k // n))[::-1],
    "linspace": lambda k, n: np.linspace(0, k - 1, n).round()[::-1],
}


@pytest.mark.parametrize("steps", [2, 7, 10, 16, 50, 999, 1000])
@pytest.mark.parametrize("name", SPACINGS)
def test_spacings_are_those_of_the_table(name, steps):
    """Every time is that of an entry, k at t = (k + 1) / K, where FromBetas has its own alpha."""
    times = np.asarray(getattr(grids, name)(SCHEDULE, steps))
    entries = SPACINGS[name](1000, steps)
    np.testing.assert_allclose(times[:-1], (entries + 1) / 1000, rtol=2e-7)
    assert (np.diff(times) < 0).all()


def test_leading_has_diffusers_offset():
    np.testing.assert_allclose(np.asarray(grids.leading(SCHEDULE, 50, offset=1))[[0, -2, -1]], [0.982, 0.002, 0])
    for steps, offset in ((50, 20), (1000, 1), (50, -1)):
        with pytest.raises(ValueError, match="offset must lie in"):
            grids.leading(SCHEDULE, steps, offset=offset)
    padded = jax.jit(lambda steps: grids.leading(SCHEDULE, steps, offset=1, length=1000))
    assert jnp.isfinite(padded(50)).all() and jnp.isnan(padded(1000)).all()


@pytest.mark.parametrize("name", SPACINGS)
def test_a_table_has_no_more_steps_than_entries(name):
    with pytest.raises(ValueError, match="table of 10 timesteps"):
        getattr(grids, name)(SCHEDULE, 11, timesteps=10)
    assert jnp.isnan(jax.jit(lambda n: getattr(grids, name)(SCHEDULE, n, timesteps=10, length=20))(11)).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: grids.beta(SCHEDULE, 5, a=0.0), "a > 0"),
        (lambda: grids.linear_quadratic(SCHEDULE, 5, threshold=0.5), "threshold"),
        (lambda: grids.from_times(jnp.linspace(1, 0, 5), length=3), "do not fit into length = 3"),
        (
            lambda: grids.optimized(
                SCHEDULE, 5, denoise=lambda x, t, cond=None: x, probes=jnp.ones((2, 2)), resolution=1
            ),
            "resolution",
        ),
    ],
)
def test_bad_numbers_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("times", [[0.0, 0.5, 0.2], [1.0], [1.5, 0.0], [[1.0, 0.0]]])
def test_from_times_refuses(times):
    with pytest.raises(ValueError, match="grid"):
        grids.from_times(jnp.array(times))


def test_from_times_pads_with_its_last_time():
    times = grids.from_times(jnp.array([0.9, 0.5, 0.2]), length=4)
    np.testing.assert_array_equal(times, np.float32([0.9, 0.5, 0.2, 0.2, 0.2]))


def probes_of(schedule, batch=64):
    spec = jax.ShapeDtypeStruct((batch, 2), jnp.float32)
    return Gaussian(schedule=schedule).prior(noise.sample_keys(jax.random.key(5), batch), spec)


@functools.cache
def optimized_for(s):
    """`steps -> times` for the mixture, from one compilation."""
    schedule = SCHEDULES[s]
    make = jax.jit(functools.partial(grids.optimized, length=40))
    denoise, probes = mixture().denoiser(schedule), probes_of(schedule)
    return lambda steps: make(schedule, steps, denoise=denoise, probes=probes)


@pytest.mark.parametrize("s", SCHEDULES)
def test_optimized_grids_run_from_exactly_one_to_exactly_zero(s):
    for steps in (1, 2, 3, 40):
        times = np.asarray(optimized_for(s)(steps))
        assert times.shape == (41,)
        assert times[0] == 1 and (times[steps:] == 0).all()
        assert (np.diff(times[: steps + 1]) < 0).all()


def test_optimized_grids_are_shares_of_one_integral():
    """Doubling the steps keeps every other time; more probes and a finer solution change little."""
    coarse, fine = optimized_for("cosine")(10)[:11], optimized_for("cosine")(20)[:21]
    np.testing.assert_allclose(fine[::2], coarse, rtol=1e-4)
    denoise = mixture().denoiser(SCHEDULE)
    better = grids.optimized(SCHEDULE, 10, denoise=denoise, probes=probes_of(SCHEDULE, 1024), resolution=512)
    np.testing.assert_allclose(better, coarse, atol=0.03)


def test_the_optimized_grid_does_not_depend_on_the_clock():
    """The same noise scales whatever the schedule: the ODE in sigma / alpha knows no other time."""
    scales = [schedules.logsnr(SCHEDULES[s], optimized_for(s)(8)[1:8]) for s in ("cosine", "rectified flow", "shifted")]
    for other in scales[1:]:
        np.testing.assert_allclose(other, scales[0], atol=0.02)


def test_a_denoiser_that_never_moves_gets_a_finite_grid():
    still = lambda x, t, cond=None: jnp.zeros_like(x)
    times = grids.optimized(SCHEDULE, 10, denoise=still, probes=probes_of(SCHEDULE))
    assert jnp.isfinite(times).all() and (jnp.diff(times) < 0).all()


@functools.cache
def exact(s):
    """Starting noise and where the ODE carries it."""
    schedule, x = SCHEDULES[s], SCHEDULES[s](1.0)[1] * jax.random.normal(jax.random.key(11), (512, 2))
    fine = grids.logsnr(schedule, 1000, sigma_min=1e-3, sigma_max=1e3)
    process, denoise = Gaussian(schedule=schedule), mixture().denoiser(schedule)
    return x, compiled(jax.random.key(0), process, denoise, solvers.DPMpp2M(), fine, x=x)[0]


@pytest.mark.parametrize("solver", [solvers.DDIM(), solvers.DPMpp2M()], ids=["ddim", "dpm++ 2m"])
@pytest.mark.parametrize("s", ["rectified flow", "edm"])
def test_the_optimized_grid_has_smaller_errors(s, solver):
    """Distance to the exact solution, from other noise than the probes', beside three known grids.

    Equal steps in the time of RectifiedFlow are nearly optimal for this mixture. The second-order solver has nothing to
    win there, and only a bound is tested; in every other case the optimized grid is the best.
    """
    schedule, (x, expected) = SCHEDULES[s], exact(s)
    process, denoise = Gaussian(schedule=schedule), mixture().denoiser(schedule)

    def error(times):
        reached, _ = compiled(jax.random.key(0), process, denoise, solver, times, x=x)
        return float(jnp.sqrt(((reached - expected) ** 2).mean()))

    for steps in (5, 8, 10, 20):
        padded = functools.partial(grids.from_times, length=40)
        known = [error(padded(make(schedule, steps))) for make in (grids.uniform, grids.karras, grids.logsnr)]
        found = error(optimized_for(s)(steps))
        level = s == "rectified flow" and solver.order == 2
        assert found < (1.2 if level else 1.0) * min(known), (steps, found, known)
        assert found < 0.75 * min(known[1:]), (steps, found, known)
        if s == "edm":
            assert found < 0.3 * known[0]
