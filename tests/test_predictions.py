import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conformance import NEEDS_SIGNAL, NO_SIGNAL_AT_ONE, NO_VELOCITY_AT_ONE, PREDICTIONS, SCHEDULES, WEIGHTINGS

from jaxdiff import Gaussian, predictions, schedules

PAIRS = [
    pytest.param(p, s, id=f"{p}, {s}")
    for p in PREDICTIONS
    for s in SCHEDULES
    if not (p in NEEDS_SIGNAL and s in NO_SIGNAL_AT_ONE) and not (p == "velocity" and s in NO_VELOCITY_AT_ONE)
]


@pytest.mark.parametrize(("p", "s"), PAIRS)
def test_one_inverse_gives_data_and_noise_back(p, s):
    with jax.enable_x64(True):
        prediction, schedule = (jax.tree.map(jnp.float64, x) for x in (PREDICTIONS[p], SCHEDULES[s]))
        x0, eps = jax.random.normal(jax.random.key(0), (2, 50, 3))
        t = jnp.linspace(0.001, 1, 50)
        alpha, sigma = (a[:, None] for a in schedule(t))
        x_t, y = alpha * x0 + sigma * eps, predictions.target(prediction, schedule, x0, eps, t)
        np.testing.assert_allclose(predictions.to_x0(prediction, schedule, x_t, y, t), x0, atol=1e-8)
        np.testing.assert_allclose(predictions.to_eps(prediction, schedule, x_t, y, t), eps, atol=1e-8)


@pytest.mark.parametrize(("p", "s"), PAIRS)
def test_denoised_is_the_input_at_the_data_and_gradients_are_finite(p, s):
    process = Gaussian(schedule=SCHEDULES[s], prediction=PREDICTIONS[p])
    x = jax.random.normal(jax.random.key(0), (4, 3))

    def denoised(w, t):
        return process.denoiser(lambda x, t, cond: w * x)(x, t)

    np.testing.assert_array_equal(denoised(0.7, jnp.zeros(())), x)
    np.testing.assert_array_equal(
        denoised(0.7, jnp.array([0.0, 0.5, 0.5, 0.0]))[jnp.array([0, 3])], x[jnp.array([0, 3])]
    )
    for t in (0.0, 1e-3, 1.0):
        slope = jax.grad(lambda w, t: (denoised(w, t) ** 2).sum(), (0, 1))(0.7, jnp.float32(t))
        assert jnp.isfinite(slope[0])
    assert jnp.isfinite(jax.grad(lambda t: (denoised(0.7, t) ** 2).sum())(0.0))


@pytest.mark.parametrize("w", WEIGHTINGS)
@pytest.mark.parametrize("s", SCHEDULES)
def test_weighted_loss_and_gradient_do_not_depend_on_the_prediction(w, s):
    """A network that knows x0 up to an error, spoken in each prediction space, has one loss and one gradient."""
    with jax.enable_x64(True):
        schedule = jax.tree.map(jnp.float64, SCHEDULES[s])
        x0, eps, error = jax.random.normal(jax.random.key(1), (3, 20, 5))
        t = jnp.linspace(0.01, 0.99, 20)
        alpha, sigma = (a[:, None] for a in schedule(t))
        x_t, results = alpha * x0 + sigma * eps, []
        for prediction in PREDICTIONS.values():
            prediction = jax.tree.map(jnp.float64, prediction)
            try:
                process = Gaussian(schedule=schedule, prediction=prediction)
            except ValueError:
                continue

            def loss(size):
                guess = x0 + size * error
                noise = (x_t - alpha * guess) / sigma
                output = predictions.target(prediction, schedule, guess, noise, t)
                target = predictions.target(prediction, schedule, x0, eps, t)
                return (WEIGHTINGS[w](schedule, t) * process.loss(output, x_t, target, t)).sum()

            results.append((loss(0.3), jax.grad(loss)(0.3)))
        assert len(results) >= 3
        np.testing.assert_allclose(results, np.broadcast_to(results[0], np.shape(results)), rtol=1e-5)


def test_named_weightings_are_the_losses_they_are_named_after():
    """For each prediction with a weighting of its name, the weighted loss is that prediction's plain squared error."""
    with jax.enable_x64(True):
        schedule = schedules.LinearBeta()
        output, target = jax.random.normal(jax.random.key(2), (2, 20, 5))
        t = jnp.linspace(0.01, 0.99, 20)
        for name in ("x0", "eps", "v", "velocity", "edm"):
            process = Gaussian(schedule=schedule, prediction=PREDICTIONS[name])
            loss = WEIGHTINGS[name](schedule, t) * process.loss(output, target, target, t)
            np.testing.assert_allclose(loss, ((output - target) ** 2).mean(1), rtol=1e-5, err_msg=name)


def test_edm_is_the_preconditioning_of_the_paper():
    """c_skip, c_out, c_in of arXiv 2206.00364, table 1."""
    sigma, sd = jnp.array([0.02, 0.5, 3.0, 60.0]), 0.5
    schedule = schedules.EDM(sigma_max=80.0)
    process = Gaussian(schedule=schedule, prediction=predictions.edm(sigma_data=sd))
    x, f = jax.random.normal(jax.random.key(0), (2, 4, 6))
    c_skip, c_out = sd**2 / (sigma**2 + sd**2), sigma * sd / jnp.sqrt(sigma**2 + sd**2)
    paper = c_skip[:, None] * x + c_out[:, None] * f
    np.testing.assert_allclose(
        predictions.to_x0(process.prediction, schedule, x, f, sigma / 80), paper, rtol=2e-5, atol=1e-5
    )
    np.testing.assert_allclose(process.inputs(x, sigma / 80), x / jnp.sqrt(sigma**2 + sd**2)[:, None], rtol=1e-5)


@pytest.mark.parametrize("prediction", NEEDS_SIGNAL)
@pytest.mark.parametrize("schedule", NO_SIGNAL_AT_ONE)
def test_refused_where_the_schedule_leaves_no_signal(prediction, schedule):
    with pytest.raises(ValueError, match=r"alpha = 0.*use predictions.v"):
        Gaussian(schedule=SCHEDULES[schedule], prediction=PREDICTIONS[prediction])


@pytest.mark.parametrize("schedule", NO_VELOCITY_AT_ONE)
def test_velocity_is_refused_where_it_is_infinite(schedule):
    with pytest.raises(ValueError, match=r"use predictions\.v"):
        Gaussian(schedule=SCHEDULES[schedule], prediction=predictions.velocity())


def test_a_class_instead_of_an_instance_is_refused():
    with pytest.raises(ValueError, match=r"write v\(\)"):
        Gaussian(schedule=schedules.Cosine(), prediction=predictions.v)
