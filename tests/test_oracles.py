import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from conformance import SCHEDULES, mixture

from jaxdiff import oracles, schedules

CASES = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


def test_density_is_that_of_scipy():
    with jax.enable_x64(True):
        m = mixture()
        x = m.sample(jax.random.key(0), 20)
        components = zip(m.weights, m.means, m.covariances, strict=True)
        density = sum(w * scipy.stats.multivariate_normal(mu, c).pdf(x) for w, mu, c in components)
        np.testing.assert_allclose(m.log_density(x, schedules.Cosine()), np.log(density), rtol=1e-9)


@CASES
def test_score_is_the_gradient_and_tweedie_gives_the_denoiser(schedule):
    """alpha E[x0 | x] = x + sigma^2 score (Tweedie's formula)."""
    with jax.enable_x64(True):
        m = mixture()
        for t in (0.05, 0.4, 0.9):
            alpha, sigma = schedule(jnp.float64(t))
            x = alpha * m.sample(jax.random.key(0), 20) + sigma * jax.random.normal(jax.random.key(1), (20, 2))
            gradient = jax.grad(lambda x: m.log_density(x, schedule, t).sum())(x)
            np.testing.assert_allclose(m.score(x, schedule, t), gradient, rtol=1e-7, atol=1e-9)
            np.testing.assert_allclose(alpha * m.denoise(x, schedule, t), x + sigma**2 * gradient, rtol=1e-6, atol=1e-7)


def test_denoiser_minimises_the_squared_error():
    m, schedule, size = mixture(), schedules.Cosine(), 20_000
    x0 = m.sample(jax.random.key(0), size)
    alpha, sigma = schedule(0.5)
    x = alpha * x0 + sigma * jax.random.normal(jax.random.key(1), x0.shape)
    error = x0 - m.denoise(x, schedule, 0.5)
    # Orthogonality: the error of a conditional mean is uncorrelated with any function of x.
    for f in (x, jnp.sin(3 * x), m.denoise(x, schedule, 0.5)):
        assert abs((error * f).mean()) < 4 * (error * f).std() / np.sqrt(2 * size)


def test_conditioning_on_a_component_is_the_component_alone():
    m, schedule = mixture(), schedules.Cosine()
    x = jax.random.normal(jax.random.key(0), (6, 2))
    for k in range(3):
        alone = oracles.GaussianMixture(
            weights=np.ones(1), means=m.means[k : k + 1], covariances=m.covariances[k : k + 1]
        )
        np.testing.assert_allclose(
            m.denoise(x, schedule, 0.5, jnp.full(6, k)), alone.denoise(x, schedule, 0.5), rtol=1e-5, atol=1e-6
        )
    np.testing.assert_allclose(m.denoise(x, schedule, 0.5, jnp.full(6, -1)), m.denoise(x, schedule, 0.5))


def test_exact_at_the_data_with_finite_gradients():
    m, schedule = mixture(), schedules.Cosine()
    x = jax.random.normal(jax.random.key(0), (4, 2))
    np.testing.assert_array_equal(m.denoise(x, schedule, 0.0), x)
    assert jnp.isfinite(jax.grad(lambda x: m.denoise(x, schedule, 0.0).sum())(x)).all()


def test_samples_have_the_moments():
    m = mixture()
    x = m.sample(jax.random.key(0), 100_000)
    mean = np.asarray(m.weights @ m.means)
    cov = np.einsum("k,kij->ij", m.weights, m.covariances + np.einsum("ki,kj->kij", m.means - mean, m.means - mean))
    np.testing.assert_allclose(x.mean(0), mean, atol=0.01)
    np.testing.assert_allclose(np.cov(x.T), cov, atol=0.02)


def test_covariance_shapes():
    weights, means = np.ones(2) / 2, np.zeros((2, 3))
    full = oracles.GaussianMixture(weights=weights, means=means, covariances=np.array([1.0, 2.0]))
    np.testing.assert_array_equal(full.covariances, np.array([1.0, 2.0])[:, None, None] * np.eye(3))
    with pytest.raises(ValueError, match="covariances"):
        oracles.GaussianMixture(weights=weights, means=means, covariances=np.zeros((3, 3)))
