"""The evidence lower bound against exact densities, and its terms against their closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from conformance import SCHEDULES, mixture

from jaxdiff import Discrete, Gaussian, likelihood, predictions, schedules

CASES = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
BOUNDS = pytest.mark.parametrize("name", ["linear beta", "cosine", "variance exploding"])
# These tests compile much and compute little.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
elbo = jit(likelihood.elbo, static_argnames=("draws",))


def process(schedule, **options):
    return Gaussian(schedule=schedule, prediction=predictions.v(**options))


@functools.cache
def exact_bound(name, seed=2):
    """log p(x0) and the ELBO of the exact denoiser: 1024 examples of 512 draws."""
    law, schedule = mixture(), SCHEDULES[name]
    x0 = law.sample(jax.random.key(1), 1024)
    bound = elbo(jax.random.key(seed), process(schedule), law.denoiser(schedule), x0, draws=512)
    return x0, law.log_density(x0, schedule), bound


def mean_and_error(values):
    values = np.asarray(values, np.float64)
    return values.mean(), values.std() / np.sqrt(len(values))


@BOUNDS
def test_the_exact_denoiser_makes_the_bound_tight(name):
    """log p >= ELBO, and the mean gap is that of t_min and of the prior: below 0.02 nats."""
    _, log_density, bound = exact_bound(name)
    gap, error = mean_and_error(log_density - bound)
    assert error < 0.01
    assert -3 * error < gap < 0.02 + 3 * error


@BOUNDS
def test_a_wrong_denoiser_lowers_the_bound(name):
    """By the integral of its squared distance from the exact one, whatever is wrong with it."""
    x0, _, bound = exact_bound(name)
    schedule = SCHEDULES[name]
    exact = mixture().denoiser(schedule)

    def wrong(factor, bump, x, t, cond=None):
        return factor * exact(x, t) + bump * jnp.sin(3 * x)

    for numbers in ((0.8, 0.0), (1.0, 0.1)):
        denoise = jax.tree_util.Partial(wrong, *map(jnp.float32, numbers))
        lower = elbo(jax.random.key(2), process(schedule), denoise, x0, draws=64)
        drop, error = mean_and_error(bound - lower)
        assert drop > 0.1 and drop > 5 * error


@CASES
def test_the_linear_denoiser_of_normal_data_has_no_variance(schedule):
    """Data N(0, s^2 I): the control variate is the rate itself, so few draws give the exact density.

    The decoder below t_min is one nearly exact Gaussian, hence the small t_min.
    """
    s = 0.7
    x0 = s * jax.random.normal(jax.random.key(0), (64, 4))

    def denoise(x, t, cond=None):
        alpha, sigma = schedule(t)
        return (alpha * s**2 / (alpha**2 * s**2 + sigma**2))[:, None] * x

    t_min = 1e-4 if isinstance(schedule, schedules.EDM) else 1e-3
    run = lambda seed: elbo(
        jax.random.key(seed),
        process(schedule, sigma_data=s),
        jax.tree_util.Partial(denoise),
        x0,
        t_min=t_min,
        draws=128,
    )
    exact = scipy.stats.norm(0, s).logpdf(x0).sum(1)
    bounds = np.asarray([run(seed) for seed in range(3)])
    assert bounds.std(0).max() < 0.1
    np.testing.assert_allclose(bounds.mean(), exact.mean(), atol=0.02)
    np.testing.assert_allclose(bounds.mean(0), exact, atol=0.15)


@BOUNDS
def test_the_bound_is_its_three_terms(name):
    """For the denoiser 0.3 x_t the noise is integrated in closed form and the time by the trapezoidal rule."""
    schedule, t_min = SCHEDULES[name], 0.01
    x0 = jnp.array([[1.5, -0.5, 0.2], [0.0, 0.1, 0.0]])
    model = process(schedule)
    with jax.enable_x64(True):
        t = jnp.geomspace(t_min, 1.0, 20_001)
        alpha, sigma = schedule(t)
        snr_slope = jax.vmap(jax.grad(lambda t: (lambda a, s: (a / s) ** 2)(*schedule(t))))(t)
        squares = (1 - 0.3 * alpha) ** 2 * (x0**2).sum(1)[:, None] + 3 * (0.3 * sigma) ** 2
        integral = np.trapezoid(np.asarray(-0.5 * snr_slope * squares), np.asarray(t), axis=1)
        ends = np.asarray(model.prior_kl(x0) + model.reconstruction(x0, jnp.float64(t_min)))
    repeated = jnp.repeat(x0, 400, 0)
    estimate = elbo(
        jax.random.key(0), model, jax.tree_util.Partial(lambda x, t: 0.3 * x), repeated, t_min=t_min, draws=256
    )
    for i in range(2):
        mean, error = mean_and_error(estimate[400 * i : 400 * (i + 1)])
        assert abs(mean + integral[i] + ends[i]) < 4 * error + 2e-3 * integral[i]
        assert error < 0.02 * (1 + integral[i])


def test_the_control_variate_leaves_the_mean_alone():
    """Data scales that a process may assume: other variances, one mean."""
    law, schedule = mixture(), schedules.LinearBeta()
    x0 = law.sample(jax.random.key(1), 1024)
    runs = [
        elbo(jax.random.key(2), process(schedule, sigma_data=s), law.denoiser(schedule), x0, draws=256)
        for s in (0.1, 1.0, 3.0)
    ]
    for other in runs[1:]:
        difference, error = mean_and_error(other - runs[0])
        assert 0 < error < 0.06 and abs(difference) < 4 * error


@pytest.mark.parametrize(("name", "limit"), [("linear beta", 0.65), ("cosine", 0.75), ("variance exploding", 1.0)])
def test_the_variance_of_one_example_is_small(name, limit):
    """For 64 draws in two dimensions; log-uniform times without the control variate have 1.0 to 2.8 (measured)."""
    runs = jnp.stack([exact_bound(name, seed)[2] for seed in (2, 3, 4)])
    assert float(jnp.sqrt(runs.var(0, ddof=1).mean() * 512 / 64)) < limit


@pytest.mark.parametrize("process", [Discrete.masked(27), Discrete.uniform(27)], ids=["mask", "uniform"])
def test_the_variance_for_tokens_has_no_outliers(process):
    """Of 64 tokens by a denoiser that knows nothing, whose bound is 64 log 27 for masks.

    The rate of tokens is not 0 at t = 1. Times whose density is 0 there give single examples ten times the bound.
    """

    ignorant = lambda z, t, cond=None: process.log_probabilities(0.0 * z[..., None] + jnp.zeros(27), z, t)
    x0 = jnp.zeros((2000, 64), jnp.int32)
    nats = -np.asarray(elbo(jax.random.key(0), process, jax.tree_util.Partial(ignorant), x0, draws=16))
    assert nats.std() < 0.12 * nats.mean() and nats.max() < 1.6 * nats.mean()  # 0.08 and 1.3 measured for masks
    if process.pi.shape[0] > process.tokens:
        assert abs(nats.mean() / (64 * np.log(27)) - 1) < 4 * 0.12 / np.sqrt(2000)


def test_the_noise_of_an_example_does_not_depend_on_the_batch():
    law, schedule = mixture(), schedules.Cosine()
    x0 = law.sample(jax.random.key(1), 8)
    run = lambda x0, first=0: elbo(
        jax.random.key(0), process(schedule), law.denoiser(schedule), x0, draws=8, first=first
    )
    # Terms of 15 nats cancel to 2, and XLA rounds batches of 4 and of 8 differently; other noise would differ by 0.5.
    np.testing.assert_allclose(run(x0)[:4], run(x0[:4]), atol=3e-4)
    np.testing.assert_allclose(run(x0)[4:], run(x0[4:], 4), atol=3e-4)
    same = run(jnp.broadcast_to(x0[:1], (4, 2)))
    assert len(np.unique(same)) == 4  # one's own noise each


@CASES
def test_rate_is_half_the_slope_of_the_snr(schedule):
    """Against central differences of alpha^2 / sigma^2 in double precision."""
    with jax.enable_x64(True):
        t, h = jnp.array([0.0503, 0.3003, 0.6183, 0.9503]), 1e-6  # between two betas of a table
        snr = lambda t: (lambda a, s: (a / s) ** 2)(*schedule(t))
        x0, denoised = jax.random.normal(jax.random.key(0), (2, 4, 3, 2))
        expected = -0.5 * (snr(t + h) - snr(t - h)) / (2 * h) * ((x0 - denoised) ** 2).sum((1, 2))
        np.testing.assert_allclose(process(schedule).rate(x0, denoised, t), expected, rtol=1e-5)


@CASES
def test_prior_kl_is_that_of_two_gaussians(schedule):
    """KL(N(m, S) || N(0, S)) = m' S^-1 m / 2: both have the covariance sigma(1)^2 I."""
    x0 = jax.random.normal(jax.random.key(0), (3, 4))
    alpha, sigma = (float(a) for a in schedule(1.0))
    mean, precision = alpha * np.asarray(x0, np.float64), np.eye(4) / sigma**2
    expected = 0.5 * (np.einsum("bi,ij,bj->b", mean, precision, mean) + 4 - 4 + 2 * 4 * np.log(sigma / sigma))
    np.testing.assert_allclose(process(schedule).prior_kl(x0), expected, rtol=1e-4, atol=1e-12)


@CASES
def test_reconstruction_is_the_mean_of_the_decoder(schedule):
    """-E log N(x0; x_t / alpha, (sigma / alpha)^2 I) over noise, by a Monte-Carlo mean of scipy's density."""
    t, size = 0.1, 20_000
    x0 = jnp.broadcast_to(jnp.array([0.3, -1.0, 2.0]), (size, 3))
    x_t, _ = process(schedule).corrupt(jax.random.split(jax.random.key(0), size), x0, t)
    alpha, sigma = (float(a) for a in schedule(t))
    density = scipy.stats.norm(np.asarray(x_t) / alpha, sigma / alpha).logpdf(x0).sum(1)
    mean, error = mean_and_error(-density)
    assert abs(float(process(schedule).reconstruction(x0[:1], jnp.float32(t))[0]) - mean) < 4 * error + 1e-3


def test_bits_per_dim():
    """Data uniform over 256 bins have 8 bits, whatever the scale; a coin that shows one side has none."""
    width = 2 / 255
    log_density = jnp.full(3, -10 * np.log(256 * width))
    np.testing.assert_allclose(likelihood.bits_per_dim(log_density, 10, width), 8.0, rtol=1e-6)
    np.testing.assert_allclose(likelihood.bits_per_dim(jnp.full(3, -10 * np.log(256.0)), 10), 8.0, rtol=1e-6)
    np.testing.assert_allclose(likelihood.bits_per_dim(jnp.full(1, -10 * np.log(width)), 10, width), 0.0, atol=1e-6)
    # The entropy of a standard normal, log2(2 pi e) / 2 bits a dimension.
    x = jax.random.normal(jax.random.key(0), (4000, 5))
    bits = likelihood.bits_per_dim(jax.scipy.stats.norm.logpdf(x).sum(1), 5)
    np.testing.assert_allclose(bits.mean(), 0.5 * np.log2(2 * np.pi * np.e), atol=0.02)
