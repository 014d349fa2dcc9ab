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
        for t in jnp.array([0.05, 0.4, 0.9]):
            alpha, sigma = schedule(t)
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
    np.testing.assert_allclose(x.mean(0), m.mean, atol=0.01)
    np.testing.assert_allclose(np.cov(x.T), m.covariance, atol=0.02)


def test_covariance_shapes():
    weights, means = np.ones(2) / 2, np.zeros((2, 3))
    full = oracles.GaussianMixture(weights=weights, means=means, covariances=np.array([1.0, 2.0]))
    np.testing.assert_array_equal(full.covariances, np.array([1.0, 2.0])[:, None, None] * np.eye(3))
    with pytest.raises(ValueError, match="covariances"):
        oracles.GaussianMixture(weights=weights, means=means, covariances=np.zeros((3, 3)))


def brute_force(law, matrix, y, noise_std, span=4.0, points=401):
    """Weights p(x0) N(y; A x0, noise_std^2 I) on a fine grid of two dimensions, normalised to sum to one."""
    axis = np.linspace(-span, span, points)
    x = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    log_likelihood = scipy.stats.norm(0, noise_std).logpdf(y - x @ np.asarray(matrix).T).sum(1)
    log_weights = np.asarray(law.log_density(jnp.asarray(x), schedules.Cosine())) + log_likelihood
    weights = np.exp(log_weights - log_weights.max())
    return x, weights / weights.sum(), (axis[1] - axis[0]) ** 2


MEASUREMENTS = {
    "one number": ([[1.0, -0.5]], [0.3], 0.2),
    "two numbers": ([[0.4, 1.0], [1.0, 0.2]], [-0.2, 0.7], 0.5),
    "three numbers": ([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [0.5, -0.1, 0.2], 0.4),
    "nothing": ([[0.0, 0.0]], [1.0], 0.3),
}
MEASURED = pytest.mark.parametrize("measurement", MEASUREMENTS.values(), ids=MEASUREMENTS)


@MEASURED
def test_posterior_is_bayes_rule_on_a_grid(measurement):
    """Density, mean and covariance against quadrature in two dimensions; the rule is exact to 1e-8 for smooth laws."""
    with jax.enable_x64(True):
        law, (matrix, y, noise_std) = mixture(), measurement
        matrix, y = np.array(matrix), np.array(y)
        posterior = law.posterior(matrix, y, noise_std)
        x, weights, cell = brute_force(law, matrix, y, noise_std)
        density = np.exp(posterior.log_density(jnp.asarray(x), schedules.Cosine()))
        np.testing.assert_allclose(density, weights / cell, rtol=1e-7, atol=1e-9)
        mean = weights @ x
        np.testing.assert_allclose(posterior.mean, mean, atol=1e-8)
        np.testing.assert_allclose(posterior.covariance, (weights[:, None] * (x - mean)).T @ (x - mean), atol=1e-8)


@MEASURED
def test_denoiser_of_the_posterior_is_the_conditional_mean(measurement):
    """E[x0 | x_t, y] by quadrature over x0 at each of five x_t."""
    with jax.enable_x64(True):
        law, schedule, t, (matrix, y, noise_std) = mixture(), schedules.LinearBeta(), 0.3, measurement
        matrix, y = np.array(matrix), np.array(y)
        alpha, sigma = (float(a) for a in schedule(t))
        x0, weights, _ = brute_force(law, matrix, y, noise_std)
        x_t = np.asarray(jax.random.normal(jax.random.key(0), (5, 2)))
        denoised = law.posterior(matrix, y, noise_std).denoiser(schedule)(jnp.asarray(x_t), t)
        for x, found in zip(x_t, denoised, strict=True):
            joint = weights * np.exp(-0.5 * ((x - alpha * x0) ** 2).sum(1) / sigma**2)
            np.testing.assert_allclose(found, joint @ x0 / joint.sum(), atol=1e-8)


@CASES
def test_denoising_is_a_posterior_mean(schedule):
    """A = alpha I, y = x_t and noise_std = sigma, for a batch of y by vmap; its density at 0 is p(x0 | x_t)."""
    with jax.enable_x64(True):
        law, t = mixture(), jnp.float64(0.4)
        alpha, sigma = schedule(t)
        x = alpha * law.sample(jax.random.key(0), 7) + sigma * jax.random.normal(jax.random.key(1), (7, 2))
        posteriors = jax.vmap(law.posterior, (None, 0, None))(alpha * jnp.eye(2), x, sigma)
        assert posteriors.means.shape == (7, 3, 2)
        means = jax.vmap(lambda posterior: posterior.mean)(posteriors)
        np.testing.assert_allclose(means, law.denoise(x, schedule, t), rtol=1e-8, atol=1e-10)


def test_posterior_in_one_dimension_is_the_textbook_formula():
    law = oracles.GaussianMixture(weights=np.ones(1), means=np.array([[2.0]]), covariances=np.array([4.0]))
    posterior = law.posterior(np.array([[3.0]]), np.array([5.0]), 1.0)
    precision = 1 / 4 + 9 / 1
    np.testing.assert_allclose(posterior.covariance, [[1 / precision]], rtol=1e-6)
    np.testing.assert_allclose(posterior.mean, [(2 / 4 + 3 * 5 / 1) / precision], rtol=1e-6)


def test_two_measurements_are_one_after_the_other():
    """In five dimensions, with a small noise: p(x | y1, y2) from p(x | y1), in any order."""
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), 5)
        roots = jax.random.normal(keys[0], (4, 5, 5))
        law = oracles.GaussianMixture(
            weights=np.array([0.1, 0.2, 0.3, 0.4]),
            means=jax.random.normal(keys[1], (4, 5)),
            covariances=jnp.einsum("kij,klj->kil", roots, roots),
        )
        matrix = jax.random.normal(keys[2], (3, 5))
        y = matrix @ law.sample(keys[3], 1)[0] + 1e-3 * jax.random.normal(keys[4], (3,))
        both = law.posterior(matrix, y, 1e-3)
        for first, second in ((slice(0, 1), slice(1, 3)), (slice(1, 3), slice(0, 1))):
            turn = law.posterior(matrix[first], y[first], 1e-3).posterior(matrix[second], y[second], 1e-3)
            np.testing.assert_allclose(turn.weights, both.weights, rtol=1e-6)
            np.testing.assert_allclose(turn.means, both.means, rtol=1e-6, atol=1e-8)
            np.testing.assert_allclose(turn.covariances, both.covariances, rtol=1e-6, atol=1e-8)


def test_posterior_without_noise_lies_on_the_plane():
    """noise_std = 0 is the limit of small noise, its samples satisfy A x = y, and it may be diffused again."""
    with jax.enable_x64(True):
        law, matrix, y = mixture(), np.array([[1.0, -0.5]]), np.array([0.3])
        exact, nearly = (law.posterior(matrix, y, noise_std) for noise_std in (0.0, 1e-6))
        for name in ("weights", "means", "covariances"):
            np.testing.assert_allclose(getattr(exact, name), getattr(nearly, name), rtol=1e-8, atol=1e-10)
        samples = exact.sample(jax.random.key(0), 100)
        np.testing.assert_allclose(samples @ matrix.T, np.broadcast_to(y, (100, 1)), atol=1e-12)
        # The density along the line {A x = y}, by quadrature of the prior on it.
        along = np.linspace(-6, 6, 4001)
        line = np.array([0.3, 0.0]) + along[:, None] * np.array([0.5, 1.0])
        weights = np.exp(law.log_density(jnp.asarray(line), schedules.Cosine()))
        np.testing.assert_allclose(exact.mean, weights @ line / weights.sum(), atol=1e-8)
        x = jax.random.normal(jax.random.key(1), (8, 2))
        assert jnp.isfinite(exact.denoise(x, schedules.Cosine(), 0.01)).all()
    # In float32 as well, where an eigenvalue of a singular covariance may round to below zero.
    exact = mixture().posterior(matrix, y, 0.0)
    x = jax.random.normal(jax.random.key(1), (8, 2))
    for t in (1e-3, 0.1, 1.0):
        assert jnp.isfinite(exact.log_density(x, schedules.Cosine(), t)).all()


def test_posterior_keeps_the_digits_of_a_small_variance():
    """float32, variance 1 and a noise of 1e-4: C - C A' (A C A' + s^2)^{-1} A C would round to zero."""
    law = oracles.GaussianMixture(weights=np.ones(1), means=np.zeros((1, 2)), covariances=np.ones(1))
    covariance = law.posterior(np.eye(2, dtype=np.float32)[:1], np.zeros(1, np.float32), 1e-4).covariance
    np.testing.assert_allclose(covariance, np.diag([1e-8 / (1 + 1e-8), 1.0]), rtol=1e-5)


def test_posterior_says_what_it_needs():
    law, eye = mixture(), np.eye(2)
    with pytest.raises(ValueError, match=r"vmap\(law.posterior"):
        law.posterior(eye, np.zeros((3, 2)), 0.1)
    with pytest.raises(ValueError, match=r"matrix \(M, 2\)"):
        law.posterior(np.eye(3), np.zeros(3), 0.1)
    with pytest.raises(ValueError, match=">= 0"):
        law.posterior(eye, np.zeros(2), -0.1)
    for matrix in (np.ones((2, 2)), np.ones((3, 2)), np.zeros((1, 2))):
        with pytest.raises(ValueError, match="noise_std > 0"):
            law.posterior(matrix, np.zeros(len(matrix)), 0.0)


def one_gaussian():
    return oracles.GaussianMixture(
        weights=np.ones(1),
        means=np.array([[0.5, -1.0, 0.2]]),
        covariances=np.array([[[0.3, 0.1, 0.0], [0.1, 0.2, -0.05], [0.0, -0.05, 0.5]]]),
    )


@CASES
def test_flow_is_the_solution_of_the_probability_flow(schedule):
    """dx/dt of `flow` is the slope alpha' D + sigma' (x - alpha D) / sigma at its own x, for every time between."""
    with jax.enable_x64(True):
        law, x0 = one_gaussian(), jnp.array([[0.3, 0.2, -1.0], [2.0, 0.0, 1.0]])
        for t in jnp.array([0.0503, 0.4003, 0.9503]):  # between two betas of a table
            x, slope = jax.jvp(lambda t: law.flow(x0, schedule, jnp.float64(0.0), t), (t,), (jnp.ones_like(t),))
            (alpha, sigma), (d_alpha, d_sigma) = schedules.rates(schedule, t)
            denoised = law.denoise(x, schedule, t)
            expected = d_alpha * denoised + d_sigma * (x - alpha * denoised) / sigma
            np.testing.assert_allclose(slope, expected, rtol=1e-9, atol=1e-9)


@CASES
def test_flow_is_a_group_and_carries_the_law(schedule):
    with jax.enable_x64(True):
        law, x = one_gaussian(), jax.random.normal(jax.random.key(0), (6, 3))
        flow = lambda x, t, s: law.flow(x, schedule, jnp.float64(t), jnp.float64(s))
        np.testing.assert_allclose(flow(x, 0.3, 0.3), x, rtol=1e-10, atol=1e-12)
        for t, u, s in ((1.0, 0.6, 0.0), (0.2, 1.0, 0.1), (0.0, 0.5, 0.9)):
            np.testing.assert_allclose(flow(flow(x, t, u), u, s), flow(x, t, s), rtol=1e-8, atol=1e-10)
            np.testing.assert_allclose(flow(flow(x, t, s), s, t), x, rtol=1e-8, atol=1e-8)
        # The moments at t go to the moments at s: by the map's own affine form.
        (mean_t, covariance_t), (mean_s, covariance_s) = (law.moments(schedule, jnp.float64(t)) for t in (0.8, 0.1))
        centre = flow(mean_t[None], 0.8, 0.1)
        linear = (flow(mean_t + jnp.eye(3), 0.8, 0.1) - centre).T
        np.testing.assert_allclose(centre[0], mean_s, rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(linear @ covariance_t @ linear.T, covariance_s, rtol=1e-8, atol=1e-10)


def test_flow_has_one_time_per_example_and_is_for_one_gaussian():
    law, schedule, x = one_gaussian(), schedules.Cosine(), jax.random.normal(jax.random.key(0), (3, 3))
    t, s = jnp.array([0.2, 0.5, 0.9]), jnp.array([0.7, 0.1, 0.0])
    one_by_one = [law.flow(x[i : i + 1], schedule, t[i], s[i])[0] for i in range(3)]
    np.testing.assert_allclose(law.flow(x, schedule, t, s), jnp.stack(one_by_one), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="3 components"):
        mixture().flow(x[:, :2], schedule, 0.5, 0.1)
    flat = oracles.GaussianMixture(weights=np.ones(1), means=np.zeros((1, 2)), covariances=np.array([[1.0, 0.0]]))
    with pytest.raises(ValueError, match="full rank"):
        flat.flow(x[:, :2], schedule, 0.0, 0.5)


@CASES
def test_moments_are_those_of_noisy_samples(schedule):
    law, size = mixture(), 50_000
    x0 = law.sample(jax.random.key(0), size)
    means, covariances = law.moments(schedule, jnp.array([0.2, 0.7]))
    assert means.shape == (2, 2) and covariances.shape == (2, 2, 2)
    for t, mean, covariance in zip((0.2, 0.7), means, covariances, strict=True):
        alpha, sigma = schedule(t)
        x = alpha * x0 + sigma * jax.random.normal(jax.random.key(1), x0.shape)
        scale = np.sqrt(np.diag(covariance))
        np.testing.assert_allclose(x.mean(0) / scale, mean / scale, atol=5 / np.sqrt(size))
        np.testing.assert_allclose(
            np.cov(x.T) / np.outer(scale, scale), covariance / np.outer(scale, scale), atol=8 / np.sqrt(size)
        )
        np.testing.assert_allclose(law.moments(schedule, t)[1], covariance, rtol=1e-5)
