"""The probability-flow density against exact densities, and its random divergence against the exact one."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from conformance import SCHEDULES, mixture

from jaxdiff import Gaussian, grids, likelihood, noise, oracles, predictions, schedules
from jaxdiff.likelihood import divergence

CASES = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
# These tests compile much and compute little.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
log_density = jit(likelihood.log_density, static_argnames=("probes", "chunk"))


def process(schedule, **options):
    return Gaussian(schedule=schedule, prediction=predictions.v(**options))


def examples(schedule, **options):
    """256 points of the mixture and a function `(grid) -> log density, info`: one program a schedule for many tests."""
    law = mixture()
    x0 = law.sample(jax.random.key(1), 256)
    model = process(schedule, **options)

    def run(grid=None):
        return log_density(
            model, law.denoiser(schedule), x0, likelihood.angle_grid(model, 32) if grid is None else grid
        )

    return law, x0, run


def signs_of(keys, i):
    """The i-th vector of signs of each key, six elements."""
    return np.stack([jax.random.rademacher(jax.random.fold_in(key, i), (6,), jnp.float32) for key in keys])


def one_gaussian(size=3):
    """A correlated Gaussian away from the origin."""
    root = np.asarray(jax.random.normal(jax.random.key(5), (size, size))) / np.sqrt(size)
    covariance = root @ root.T + 0.05 * np.eye(size)
    return oracles.GaussianMixture(
        weights=np.ones(1), means=np.linspace(-0.5, 0.5, size)[None], covariances=covariance[None]
    )


@CASES
def test_exact_density_of_the_mixture(schedule):
    """In float32: 32 steps to 1e-4 nats, but for the signal left at t = 1, which the prior does not know of."""
    law, x0, run = examples(schedule)
    density, info = run()
    error = np.asarray(density - law.log_density(x0, schedule), np.float64)
    alpha, sigma = (float(a) for a in schedule(1.0))
    assert abs(error).mean() < 1e-4 + 0.2 * alpha / sigma  # below 0.0026 nats
    assert abs(error.mean()) < 1e-4 + 4 * error.std() / np.sqrt(len(error))
    assert abs(error).max() < 0.01
    assert int(info.nfe) == 4 * 32


def test_order_four():
    """In float64; as alpha(1) = 0, the prior is exact, so that nothing but the integration is in error."""
    with jax.enable_x64(True):
        law, schedule = mixture(), schedules.Cosine()
        x0, model = law.sample(jax.random.key(1), 64), process(schedules.Cosine())
        run = lambda steps: log_density(model, law.denoiser(schedule), x0, likelihood.angle_grid(model, steps))[0]
        exact = law.log_density(x0, schedule)
        errors = [float(jnp.abs(run(steps) - exact).mean()) for steps in (48, 96, 192)]
        orders = np.log2(np.divide(errors[:-1], errors[1:]))
        assert (abs(orders - 4) < 0.25).all(), orders
        assert errors[-1] < 3e-8


@CASES
def test_normal_data_of_the_assumed_scale_need_one_step(schedule):
    """The slope is zero, so the density is the prior's own; its bits are those of the normal law."""
    x0 = 0.7 * jax.random.normal(jax.random.key(0), (16, 2, 3))

    def denoise(x, t, cond=None):
        alpha, sigma = schedule(t)
        return alpha * 0.49 / (alpha**2 * 0.49 + sigma**2) * x

    density, info = log_density(
        process(schedule, sigma_data=0.7), jax.tree_util.Partial(denoise), x0, jnp.array([0.0, 1.0])
    )
    exact = scipy.stats.norm(0, 0.7).logpdf(x0).sum((1, 2))
    alpha, sigma = (float(a) for a in schedule(1.0))
    np.testing.assert_allclose(density, exact, atol=1e-4 + 10 * (alpha / sigma) ** 2)
    assert int(info.nfe) == 4 and info.latent.shape == x0.shape
    np.testing.assert_allclose(
        likelihood.bits_per_dim(density, 6), -exact / 6 / np.log(2), atol=1e-4 + 10 * (alpha / sigma) ** 2
    )


@CASES
def test_a_grid_that_starts_in_noise_gives_the_blurred_density(schedule):
    """log q_t(alpha x0) + D log alpha for the first time t: exact, whatever t is. A sampler's grid, reversed."""
    law, x0, run = examples(schedule)
    times = grids.logsnr(schedule, 33, sigma_min=0.1)[-2::-1]
    density, _ = run(times)
    alpha, _ = schedule(times[0])
    blurred = law.log_density(alpha * x0, schedule, times[0]) + 2 * jnp.log(alpha)
    assert float(jnp.abs(density - blurred).mean()) < 0.01
    assert float(jnp.abs(blurred - law.log_density(x0, schedule)).mean()) > 0.05


@pytest.mark.parametrize("name", ["cosine", "linear beta", "variance exploding"])
def test_elbo_lies_below_the_density(name):
    """For the exact denoiser both are of one law: ELBO <= log p on average, with a small gap."""
    law, x0, run = examples(SCHEDULES[name])
    density, _ = run()
    bound = jit(likelihood.elbo, static_argnames="draws")(
        jax.random.key(2), process(SCHEDULES[name]), law.denoiser(SCHEDULES[name]), x0, draws=512
    )
    gap = np.asarray(density - bound, np.float64)
    error = gap.std() / np.sqrt(len(gap))
    assert error < 0.02
    assert -3 * error < gap.mean() < 0.02 + 3 * error


@pytest.mark.parametrize("name", ["cosine", "edm"])
def test_it_is_a_density_for_a_wrong_denoiser(name):
    """One dimension, integrated over a fine grid of data: one."""
    schedule = SCHEDULES[name]

    def wrong(x, t, cond=None):
        alpha, sigma = schedule(t)
        right = alpha * x / (alpha**2 + sigma**2)
        return right + 0.3 * sigma / (1 + sigma) * jnp.sin(2 * right)

    x0 = jnp.linspace(-8, 8, 1601)[:, None]
    density, _ = log_density(process(schedule), jax.tree_util.Partial(wrong), x0)
    assert float(jnp.abs(density - scipy.stats.norm().logpdf(x0)[:, 0])[700:900].max()) > 0.05
    np.testing.assert_allclose(np.trapezoid(np.exp(density), x0[:, 0]), 1.0, atol=1e-3)


@pytest.mark.parametrize("schedule", [SCHEDULES[name] for name in ("cosine", "linear beta", "edm")])
def test_latent_is_where_the_exact_flow_leads(schedule):
    law = one_gaussian()
    x0 = law.sample(jax.random.key(1), 32)
    _, info = log_density(process(schedule), law.denoiser(schedule), x0)
    exact = law.flow(x0, schedule, 0.0, 1.0)
    np.testing.assert_allclose(info.latent, exact, atol=1e-4 * float(schedule(1.0)[1]))


def test_the_scale_of_the_coordinates_does_not_matter():
    for sigma_data in (0.3, 3.0):
        law, x0, run = examples(schedules.RectifiedFlow(), sigma_data=sigma_data)
        error = run()[0] - law.log_density(x0, schedules.RectifiedFlow())
        assert float(jnp.abs(error).mean()) < 1e-3


def test_its_gradient_is_the_score():
    law, schedule = mixture(), schedules.Cosine()
    x0, model = law.sample(jax.random.key(1), 8), process(schedules.Cosine())
    total = lambda x0: likelihood.log_density(model, law.denoiser(schedule), x0)[0].sum()
    np.testing.assert_allclose(jit(jax.grad(total))(x0), law.score(x0, schedule), rtol=1e-3, atol=1e-2)


def test_signs_give_the_exact_density_on_average():
    """The nonlinear denoiser of the mixture: three points, 2048 independent estimates of each."""
    law, schedule = mixture(), schedules.Cosine()
    model, denoise, copies = process(schedule), mixture().denoiser(schedule), 2048
    x0, grid = law.sample(jax.random.key(1), 3), likelihood.angle_grid(model, 12)
    exact, _ = log_density(model, denoise, x0, grid)
    estimate, info = log_density(model, denoise, jnp.repeat(x0, copies, 0), grid, key=jax.random.key(2), probes=2)
    estimate = np.asarray(estimate, np.float64).reshape(3, copies)
    error = estimate.std(1) / np.sqrt(copies)
    assert (error > 0).all() and (error < 0.02).all()
    assert (abs(estimate.mean(1) - exact) < 4 * error + 1e-4).all()
    assert int(info.nfe) == 48


def test_signs_of_a_linear_denoiser_have_the_known_variance():
    """2 sum_{i != j} J_ij^2 for a symmetric Jacobian, and independent in each call: (width * weight)^2 times that."""
    law, schedule, copies = one_gaussian(), schedules.Cosine(), 8192
    grid = likelihood.angle_grid(process(schedule), 4)
    x0 = jnp.repeat(law.sample(jax.random.key(1), 1), copies, 0)
    run = functools.partial(log_density, process(schedule), law.denoiser(schedule), x0, grid, key=jax.random.key(2))
    angles = 0.5 * np.pi * np.asarray(grid, np.float64)  # the cosine schedule's own angle
    variance = 0.0
    for start, end in itertools.pairwise(angles):
        for share, weight in zip((0, 0.5, 0.5, 1), (1 / 6, 1 / 3, 1 / 3, 1 / 6), strict=True):
            cos, sin = np.cos(start + share * (end - start)), np.sin(start + share * (end - start))
            if sin > 0:
                covariance = np.asarray(law.covariances[0], np.float64)
                gain = cos * covariance @ np.linalg.inv(cos**2 * covariance + sin**2 * np.eye(3))
                jacobian = (cos * np.eye(3) - gain) / sin
                off = jacobian - np.diag(np.diag(jacobian))
                variance += ((end - start) * weight) ** 2 * 2 * (off**2).sum()
    for probes in (1, 3):
        # Four standard errors of a sample variance of nearly normal numbers.
        measured = float(jnp.var(run(probes=probes)[0]))
        assert abs(measured / (variance / probes) - 1) < 4 * np.sqrt(2 / copies), (measured, variance / probes)


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_chunks_change_nothing(chunk):
    """Six elements in two axes, in rounds of 1, of 4 + 2 and at once; the trace of a known Jacobian."""
    matrix = jax.random.normal(jax.random.key(0), (6, 6))
    field = lambda z: jnp.tanh(z.reshape(-1, 6) @ matrix.T).reshape(z.shape)
    z = jax.random.normal(jax.random.key(1), (5, 2, 3))
    value, trace = jit(lambda z: divergence.exact(field, z, chunk=chunk))(z)
    jacobians = (1 - np.asarray(value).reshape(5, 6, 1) ** 2) * np.asarray(matrix)
    np.testing.assert_allclose(value, field(z), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(trace, np.trace(jacobians, axis1=1, axis2=2), rtol=1e-4, atol=1e-5)
    keys = noise.sample_keys(jax.random.key(2), 5)
    value, estimate = jit(lambda z: divergence.hutchinson(keys, field, z, 7, chunk=chunk))(z)
    u = np.stack([signs_of(keys, i) for i in range(7)])
    np.testing.assert_allclose(value, field(z), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(estimate, np.einsum("nbi,bij,nbj->b", u, jacobians, u) / 7, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("random", [False, True])
def test_an_example_does_not_depend_on_its_batch(random):
    law, schedule = mixture(), schedules.LinearBeta()
    x0, grid = law.sample(jax.random.key(1), 8), likelihood.angle_grid(process(schedules.LinearBeta()), 16)
    options = {"key": jax.random.key(3), "probes": 2} if random else {}
    run = lambda x0, first: log_density(process(schedule), law.denoiser(schedule), x0, grid, first=first, **options)[0]
    whole = run(x0, 0)
    parts = jnp.concatenate([run(x0[:3], 0), run(x0[3:], 3)])
    np.testing.assert_allclose(whole, parts, atol=5e-5)  # other directions would differ by 0.1
    if random:
        assert float(jnp.abs(run(x0, 8) - whole).min()) > 1e-4


def test_one_trace_for_all_grids_and_equal_times_do_nothing():
    law, traces = mixture(), []
    x0 = law.sample(jax.random.key(1), 8)

    def run(model, denoise, x0, grid):
        traces.append(None)
        return likelihood.log_density(model, denoise, x0, grid)

    compiled, model, denoise = jit(run), process(schedules.Cosine()), law.denoiser(schedules.Cosine())
    grid = likelihood.angle_grid(model, 16)
    short, short_info = compiled(model, denoise, x0, grid)
    ends = jnp.zeros(5), jnp.ones(3)
    for padded in (
        jnp.concatenate([ends[0], grid, ends[1]]),
        jnp.concatenate([grid[:7], jnp.full(8, grid[6]), grid[7:]]),
    ):
        density, info = compiled(model, denoise, x0, padded)
        np.testing.assert_allclose(density, short, atol=2e-5)
        assert int(info.nfe) == int(short_info.nfe) == 64
    assert len(traces) == 2  # two lengths


@CASES
def test_prior_and_its_density_are_one_law(schedule):
    """The density is scipy's, and the mean over the sampler's draws is minus the entropy of N(0, sigma(1)^2 I)."""
    model, size = process(schedule), 20_000
    x = model.prior(jax.random.split(jax.random.key(0), size), jax.ShapeDtypeStruct((size, 2, 2), jnp.float32))
    sigma = float(schedule(1.0)[1])
    density = np.asarray(model.prior_log_density(x), np.float64)
    np.testing.assert_allclose(density, scipy.stats.norm(0, sigma).logpdf(x).sum((1, 2)), rtol=1e-5, atol=1e-4)
    entropy = 4 * scipy.stats.norm(0, sigma).entropy()
    assert abs(density.mean() + entropy) < 4 * density.std() / np.sqrt(size)


@CASES
def test_angle_grid(schedule):
    """Exact ends, strictly increasing in float32, and equal steps in the root of the angle."""
    model = process(schedule, sigma_data=0.5)
    grid = likelihood.angle_grid(model, 64, power=2.0)
    assert grid.shape == (65,) and grid[0] == 0 and grid[-1] == 1
    assert (np.diff(np.asarray(likelihood.angle_grid(model, 64))) > 0).all()
    alpha, sigma = (np.asarray(a, np.float64) for a in schedule(grid))
    roots = np.sqrt(np.arctan2(sigma, 0.5 * alpha))
    np.testing.assert_allclose(np.diff(roots), roots[-1] / 64, rtol=1e-2)


def test_errors_say_what_to_do():
    model, x0 = process(schedules.Cosine()), jnp.zeros((2, 2))
    denoise, grid = (lambda x, t, cond=None: x), jnp.linspace(0, 1, 5)
    run = functools.partial(likelihood.log_density, model, denoise, x0)
    with pytest.raises(ValueError, match="both key and probes"):
        run(grid, key=jax.random.key(0))
    with pytest.raises(ValueError, match="both key and probes"):
        run(grid, probes=1)
    with pytest.raises(ValueError, match="at least 1"):
        run(grid, key=jax.random.key(0), probes=0)
    with pytest.raises(ValueError, match=r"grid\[::-1\]"):
        run(grid[::-1])
    with pytest.raises(ValueError, match="exactly 1"):
        run(grid[:-1])
    with pytest.raises(ValueError, match="steps >= 1"):
        run(grid[-1:])
    with pytest.raises(ValueError, match="at least 1 step"):
        likelihood.angle_grid(model, 0)
