import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conformance import SCHEDULES

from jaxdiff import Gaussian, noise, predictions, schedules

CASES = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
TIMES = [(0.2, 0.7), (0.0, 0.5), (0.45, 0.46), (0.3, 0.999)]


def moments(draw, size=200_000):
    """Mean and standard deviation of `draw(keys, ones)`."""
    x = draw(noise.sample_keys(jax.random.key(0), size), jnp.ones((size, 1)))
    return float(x.mean()), float(x.std())


@CASES
@pytest.mark.parametrize(("s", "t"), TIMES)
def test_forward_after_corrupt_is_corrupt(schedule, s, t):
    """q(x_t | x_s) q(x_s | x0) has the mean and variance of q(x_t | x0), exactly: a draw is affine in its noise."""
    process = Gaussian(schedule=schedule)
    one, supplied = jnp.ones((2, 1)), lambda z: jnp.broadcast_to(jnp.float32(z), (1, 2, 1))
    gain = process.forward(supplied(0.0), one, s, t)[0, 0]  # alpha_ts
    std = process.forward(supplied(1.0), 0 * one, s, t)[0, 0]  # sigma_ts
    (alpha_s, sigma_s), (alpha_t, sigma_t) = schedule(s), schedule(t)
    np.testing.assert_allclose(gain * alpha_s, alpha_t, rtol=1e-5)
    np.testing.assert_allclose(jnp.hypot(gain * sigma_s, std), sigma_t, rtol=1e-4)


@CASES
@pytest.mark.parametrize(("s", "t"), TIMES)
def test_bridge_after_corrupt_is_corrupt(schedule, s, t):
    """q(x_s | x_t, x0) q(x_t | x0) has the mean and variance of q(x_s | x0); at s = 0 it is x0 exactly."""
    process = Gaussian(schedule=schedule)
    zero, supplied = jnp.zeros((2, 1)), lambda z: jnp.broadcast_to(jnp.float32(z), (1, 2, 1))
    (alpha_s, sigma_s), (alpha_t, sigma_t) = schedule(s), schedule(t)
    mean = process.bridge(supplied(0.0), zero + 1, zero + alpha_t, t, s)[0, 0]
    gain = process.bridge(supplied(0.0), zero, zero + 1, t, s)[0, 0]
    std = process.bridge(supplied(1.0), zero, zero, t, s)[0, 0]
    np.testing.assert_allclose(mean, alpha_s, rtol=1e-5)
    np.testing.assert_allclose(jnp.hypot(gain * sigma_t, std), sigma_s, rtol=1e-4)
    # The joint law, too: cov(x_s, x_t) = alpha_ts sigma_s^2.
    np.testing.assert_allclose(gain * sigma_t**2, alpha_t / alpha_s * sigma_s**2, rtol=1e-4)


def test_forward_goes_forward_only():
    process = Gaussian(schedule=schedules.Cosine())
    keys, x = noise.sample_keys(jax.random.key(0), 2), jnp.ones((2, 3))
    np.testing.assert_array_equal(process.forward(keys, x, 1.0, 1.0), x)
    with pytest.raises(ValueError, match="to a later t"):
        process.forward(keys, x, 0.9, 0.5)


def test_draws_are_standard_normal():
    mean, std = moments(lambda keys, x: noise.normal(keys, x))
    assert abs(mean) < 0.01
    assert abs(std - 1) < 0.01
    process = Gaussian(schedule=schedules.VarianceExploding(sigma_max=50.0))
    assert abs(moments(lambda keys, x: process.prior(keys, jax.ShapeDtypeStruct(x.shape, x.dtype)))[1] - 50) < 0.5, (
        "VE starts at sigma_max"
    )


def test_corrupt_uses_one_noise_for_input_and_target():
    process = Gaussian(schedule=schedules.LinearBeta(), prediction=predictions.eps())
    x0 = jax.random.normal(jax.random.key(1), (6, 4))
    t = jnp.linspace(0.1, 1, 6)
    x_t, eps = process.corrupt(noise.sample_keys(jax.random.key(0), 6), x0, t)
    alpha, sigma = process.schedule(t)
    np.testing.assert_allclose(x_t, alpha[:, None] * x0 + sigma[:, None] * eps, rtol=1e-5, atol=1e-6)


def test_inputs_have_unit_variance():
    process = Gaussian(schedule=schedules.EDM(), prediction=predictions.edm(sigma_data=0.5))
    x0 = 0.5 * jax.random.normal(jax.random.key(1), (20_000, 4))
    for t in (0.0, 0.001, 0.01, 1.0):
        x_t, _ = process.corrupt(noise.sample_keys(jax.random.key(0), 20_000), x0, t)
        assert abs(process.inputs(x_t, t).std() - 1) < 0.02


def test_observed_elements_come_back_exactly_and_the_network_sees_them_at_time_zero():
    process = Gaussian(schedule=schedules.Cosine(), prediction=predictions.x0())
    mask = jnp.array([[True, False, False], [False, True, True]])
    value = jax.random.normal(jax.random.key(0), (2, 3))
    seen = {}

    def network(x, t, cond):
        seen.update(x=x, t=t)
        return jnp.full_like(x, 9.0)

    out = process.denoiser(network, observed=(mask, value))(jnp.zeros((2, 3)), 0.6)
    np.testing.assert_array_equal(out, jnp.where(mask, value, 9.0))
    np.testing.assert_array_equal(seen["t"], jnp.where(mask, 0.0, 0.6))
    np.testing.assert_allclose(seen["x"], jnp.where(mask, value, 0.0), rtol=1e-6)


def test_loss_leaves_masked_elements_out_of_the_mean():
    process = Gaussian(schedule=schedules.Cosine())
    error, where = jnp.array([[1.0, 5.0], [2.0, 7.0]]), jnp.array([[True, False], [True, True]])
    loss = process.loss(error, error, 0 * error, 0.5, where)
    np.testing.assert_allclose(loss, [1.0, (4 + 49) / 2], rtol=1e-5)


def test_supplied_noise_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="supplied noise must have shape"):
        noise.normal(jnp.zeros((1, 3, 2)), jnp.zeros((4, 2)))


def test_time_of_another_shape_is_refused():
    process = Gaussian(schedule=schedules.Cosine())
    with pytest.raises(ValueError, match="prefix of the data's shape"):
        process.inputs(jnp.zeros((4, 2)), jnp.full((2,), 0.5))
