"""The learned weight of each noise level: what it converges to, and what it does to the gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conformance import mixture

from jaxdiff import Gaussian, TrainState, make_step, schedules, times, uncertainty, weightings
from jaxdiff.training import denoising

jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
PROCESS = Gaussian(schedule=schedules.Cosine())
KEY = jax.random.key(0)


def linear(params, x, t, cond=None, *, key=None):
    return params["w"] * x + params["b"]


LINEAR = {"w": jnp.array([0.3, -0.2]), "b": jnp.array([0.1, 0.4])}


def run(steps, process, objective, params, rate, batch, **options):
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, steps))
    step = make_step(process, linear, optimizer, objective=objective, ema=0.95, **options)

    @jit
    def train(state):
        body = lambda state, i: step(state, KEY, {**batch, "index": i * 256 + jnp.arange(256)})
        return jax.lax.scan(body, state, jnp.arange(steps))

    return train(TrainState.create(params, optimizer))


CURVES = {
    "over t": (lambda t: 2 * jnp.cos(3 * t) - 1, times.uniform()),
    "over log t": (lambda t: 1.5 * jnp.log(t + 0.001) + 1, times.edm(schedule=schedules.EDM())),
    "constant": (lambda t: jnp.full_like(t, 3.0), times.uniform()),
}


@pytest.mark.parametrize("name", CURVES)
def test_it_converges_to_the_log_of_the_expected_loss(name):
    """On a loss whose law is known at each time: g(t) times a noisy factor of mean one."""
    curve, law = CURVES[name]

    def toy(apply, params, ema, keys, batch, t):
        factor = jax.vmap(jax.random.exponential)(keys)
        return jnp.exp(curve(t)) * factor, {"error": factor}

    init, objective = uncertainty.learned(toy)
    state, metrics = run(800, PROCESS, objective, init(KEY, LINEAR), 0.2, {"x0": jnp.zeros((256, 2))}, times=law)
    t = jnp.sort(law(jax.random.key(5), jnp.arange(400), 400))[10:-10]
    error = np.abs(uncertainty.log_error(state.ema["uncertainty"], t) - curve(t))
    assert np.sqrt((error**2).mean()) < 0.08 and error.max() < 0.3
    np.testing.assert_allclose(metrics["error"][-100:].mean(), 1, rtol=0.03)  # the metrics of the inner objective
    np.testing.assert_allclose(metrics["uncertainty"][-100:].mean(), curve(t).mean(), atol=0.15)
    np.testing.assert_array_equal(state.params["network"]["w"], LINEAR["w"])  # no loss depended on it


def setting():
    keys, t = jax.random.split(jax.random.key(1), 8), jnp.linspace(0.05, 0.95, 8)
    return keys, {"x0": mixture().sample(jax.random.key(2), 8)}, t


def test_at_the_start_it_is_the_objective_itself():
    inner = denoising(PROCESS, weighting=weightings.eps())
    init, objective = uncertainty.learned(inner)
    params = init(KEY, LINEAR)
    loss, metrics = objective(linear, params, params, *setting())
    expected, inside = inner(linear, LINEAR, LINEAR, *setting())
    np.testing.assert_array_equal(loss, expected)
    assert set(metrics) == {"error", "uncertainty"}
    np.testing.assert_array_equal(metrics["error"], inside["error"])
    np.testing.assert_array_equal(metrics["uncertainty"], 0)


def test_the_networks_gradient_is_divided_by_exp_u():
    inner = denoising(PROCESS)
    init, objective = uncertainty.learned(inner, features=16)
    params = init(KEY, LINEAR)
    params["uncertainty"] = {"weight": jax.random.normal(jax.random.key(3), (16,))}
    u = uncertainty.log_error(params["uncertainty"], setting()[2])
    assert jnp.ptp(u) > 0.5
    rows = jax.jacrev(lambda params: objective(linear, params, params, *setting())[0])(params)
    inside = jax.jacrev(lambda params: inner(linear, params, params, *setting())[0])(LINEAR)
    for name in LINEAR:
        np.testing.assert_allclose(rows["network"][name], inside[name] / jnp.exp(u)[:, None], rtol=1e-4, atol=1e-6)
    loss = inner(linear, LINEAR, LINEAR, *setting())[0]
    of_u = jax.jacrev(lambda weight: uncertainty.log_error({"weight": weight}, setting()[2]))(jnp.zeros(16))
    expected = (1 - loss * jnp.exp(-u))[:, None] * of_u
    np.testing.assert_allclose(rows["uncertainty"]["weight"], expected, rtol=1e-4, atol=1e-5)


def test_it_trains_with_the_network():
    """The linear denoiser of the mixture: every time ends with exp(-u) L of mean one, whatever the weighting inside."""
    data = mixture().sample(jax.random.key(4), 256)
    inner = denoising(PROCESS, weighting=weightings.edm())
    init, objective = uncertainty.learned(inner)
    state, metrics = run(400, PROCESS, objective, init(KEY, LINEAR), 0.05, {"x0": data})
    assert np.isfinite(metrics["loss"]).all()
    assert metrics["loss"][-50:].mean() < metrics["loss"][0] - 0.3
    for low, high in ((0.02, 0.2), (0.2, 0.5), (0.5, 0.8), (0.8, 0.98)):
        keys, t = jax.random.split(jax.random.key(6), 4000), jnp.linspace(low, high, 4000)
        x0 = data[jnp.arange(4000) % 256]
        network, weight = state.ema["network"], state.ema["uncertainty"]
        loss = inner(linear, network, network, keys, {"x0": x0}, t)[0] * jnp.exp(-uncertainty.log_error(weight, t))
        assert 0.85 < loss.mean() < 1.15


def test_it_is_finite_at_both_ends_and_keeps_shapes():
    weight = {"weight": jax.random.normal(jax.random.key(3), (32,))}
    t = jnp.array([[0.0, 1e-7, 0.5], [1 - 2**-24, 1.0, 0.3]])
    u = uncertainty.log_error(weight, t)
    assert u.shape == t.shape and jnp.isfinite(u).all()
    np.testing.assert_allclose(uncertainty.log_error(weight, 0.5), u[0, 2], rtol=1e-5)


@pytest.mark.parametrize("features", [0, 7])
def test_features_come_in_pairs(features):
    with pytest.raises(ValueError, match="even and at least 2"):
        uncertainty.learned(denoising(PROCESS), features=features)


def test_parameters_of_the_network_alone_are_refused():
    _, objective = uncertainty.learned(denoising(PROCESS))
    with pytest.raises(ValueError, match="create the state with those"):
        objective(linear, LINEAR, LINEAR, *setting())
