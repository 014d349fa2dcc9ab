import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conformance import SCHEDULES

from jaxdiff import schedules

CASES = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


@CASES
def test_data_at_zero_exactly(schedule):
    assert tuple(map(float, schedule(jnp.float32(0)))) == (1.0, 0.0)


@CASES
def test_ratio_strictly_decreases_and_is_float32_stable(schedule):
    t = jnp.linspace(0, 1, 1001)
    alpha, sigma = schedule(t)
    assert (alpha >= 0).all() and (sigma >= 0).all()
    ratio = np.asarray(alpha / sigma, np.float64)
    assert (np.diff(ratio[1:]) < 0).all()
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), schedule)(
            jnp.linspace(0, 1, 1001, dtype=jnp.float64)
        )
    np.testing.assert_allclose(alpha, exact[0], rtol=2e-5, atol=1e-7)
    np.testing.assert_allclose(sigma, exact[1], rtol=2e-5, atol=1e-7)


@CASES
def test_inverse_undoes_logsnr(schedule):
    t = jnp.linspace(0.01, 0.99, 99)
    np.testing.assert_allclose(schedule.inverse(schedules.logsnr(schedule, t)), t, rtol=1e-4)


@CASES
def test_rates_are_derivatives(schedule):
    with jax.enable_x64(True):
        schedule = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), schedule)
        t, h = jnp.linspace(0.0505, 0.9505, 10), 1e-6
        (_, _), rates = schedules.rates(schedule, t)
        for rate, up, down in zip(rates, schedule(t + h), schedule(t - h), strict=True):
            np.testing.assert_allclose(rate, (up - down) / (2 * h), rtol=1e-5, atol=1e-7)


def test_named_limits():
    assert float(schedules.Cosine()(1.0)[0]) == 0.0
    np.testing.assert_allclose(schedules.VarianceExploding(sigma_max=50.0)(1.0)[1], 50.0, rtol=1e-6)
    np.testing.assert_allclose(schedules.EDM(sigma_max=50.0)(1.0)[1], 50.0)


@pytest.mark.parametrize("steps", [7, 1000])
def test_from_betas_is_the_table_at_its_entries(steps):
    betas = np.linspace(1e-4, 0.02, steps)
    t = (jnp.arange(steps) + 1) / steps
    with jax.enable_x64(True):
        alpha, _ = schedules.FromBetas(betas=betas)(jnp.asarray((np.arange(steps) + 1) / steps))
        np.testing.assert_allclose(alpha, np.sqrt(np.cumprod(1 - betas)), rtol=1e-12)
    alpha, sigma = schedules.FromBetas(betas=betas.astype(np.float32))(t)
    np.testing.assert_allclose(alpha, np.sqrt(np.cumprod(1 - betas)), rtol=5e-6)
    np.testing.assert_allclose(sigma, np.sqrt(1 - np.cumprod(1 - betas)), rtol=5e-6)


def test_linear_beta_is_the_limit_of_the_table():
    steps = 100_000
    with jax.enable_x64(True):
        table = schedules.FromBetas(betas=np.linspace(0.1, 20.0, steps) / steps)
        t = jnp.linspace(0.1, 1, 10)
        np.testing.assert_allclose(table(t)[0], schedules.LinearBeta()(t)[0], rtol=1e-3)


@pytest.mark.parametrize("betas", [np.array([0.1, 1.0]), np.array([0.0, 0.1]), np.array([[0.1]]), np.array([])])
def test_from_betas_refuses(betas):
    with pytest.raises(ValueError, match="beta"):
        schedules.FromBetas(betas=betas)


def test_a_sweep_over_numbers_compiles_once():
    traces = []

    @jax.jit
    def alpha(schedule, t):
        traces.append(1)
        return schedule(t)[0]

    for beta_max in (10.0, 20.0, 30.0):
        alpha(schedules.LinearBeta(beta_max=beta_max), 0.5)
    assert len(traces) == 1
