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
    times = np.asarray(t, np.float64)
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), schedule)(jnp.asarray(times))
    np.testing.assert_allclose(alpha, exact[0], rtol=2e-5, atol=1e-7)
    np.testing.assert_allclose(sigma, exact[1], rtol=2e-5, atol=1e-7)


@CASES
def test_inverse_undoes_logsnr(schedule):
    t = jnp.concatenate([jnp.array([1e-4, 1e-3]), jnp.linspace(0.01, 0.99, 99)])
    np.testing.assert_allclose(schedule.inverse(schedules.logsnr(schedule, t)), t, rtol=1e-4)
    assert float(schedule.inverse(jnp.inf)) == 0.0


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


def test_from_betas_has_the_published_tables():
    np.testing.assert_array_equal(schedules.FromBetas.linear().betas, np.linspace(1e-4, 0.02, 1000, dtype=np.float32))
    scaled = schedules.FromBetas.scaled_linear().betas
    np.testing.assert_allclose(np.diff(np.sqrt(scaled)), (0.012**0.5 - 0.00085**0.5) / 999, rtol=1e-3)
    np.testing.assert_allclose(scaled[[0, -1]], [0.00085, 0.012], rtol=1e-6)
    alpha, _ = schedules.FromBetas.scaled_linear()(1.0)
    np.testing.assert_allclose(alpha**2, np.prod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2), rtol=1e-4)


@pytest.mark.parametrize(("start", "end", "tau"), [(-3, 3, 1), (0, 3, 0.7), (-3, 1, 0.1)])
def test_sigmoid_is_gamma_of_the_paper(start, end, tau):
    """arXiv 2301.10972's sigmoid gamma as alpha^2; both ends exact whatever the numbers."""
    t, s = np.linspace(0, 1, 101), lambda x: 1 / (1 + np.exp(-x / tau))
    gamma = (s(end) - s(start + (end - start) * t)) / (s(end) - s(start))
    schedule = schedules.Sigmoid(start=start, end=end, tau=tau)
    with jax.enable_x64(True):
        np.testing.assert_allclose(schedule(jnp.asarray(t))[0] ** 2, gamma, atol=1e-12)
    alpha, sigma = jax.jit(schedule)(jnp.asarray([0.0, 1.0]))
    assert (alpha.tolist(), sigma.tolist()) == ([1, 0], [0, 1])


@pytest.mark.parametrize("numbers", [{"start": 3.0}, {"tau": 0.0}])
def test_sigmoid_refuses(numbers):
    with pytest.raises(ValueError, match="start < end and tau > 0"):
        schedules.Sigmoid(**numbers)


TIMES = jnp.linspace(0, 1, 101)
COMPOSED = {
    "shifted table": schedules.Shifted(base=schedules.FromBetas.linear(), shift=4.0),
    "shifted cosine": schedules.Shifted(base=schedules.Cosine(), shift=0.5),
    "shifted ve": schedules.Shifted(base=schedules.VarianceExploding(), shift=2.0),
    "shifted zero terminal": schedules.Shifted(base=schedules.ZeroTerminalSNR(base=schedules.LinearBeta()), shift=3.0),
    "zero terminal shifted": schedules.ZeroTerminalSNR(base=schedules.Shifted(base=schedules.LinearBeta(), shift=3.0)),
    "zero terminal cosine": schedules.ZeroTerminalSNR(base=schedules.Cosine()),
    "steep": schedules.Sigmoid(tau=0.1),
}


@pytest.mark.parametrize("schedule", COMPOSED.values(), ids=COMPOSED)
def test_composed_schedules_keep_the_contract(schedule):
    test_data_at_zero_exactly(schedule)
    test_ratio_strictly_decreases_and_is_float32_stable(schedule)
    test_inverse_undoes_logsnr(schedule)
    test_rates_are_derivatives(schedule)


@pytest.mark.parametrize("schedule", [*SCHEDULES.values(), *COMPOSED.values()], ids=[*SCHEDULES, *COMPOSED])
def test_rates_are_finite_everywhere(schedule):
    t = jnp.concatenate([jnp.array([0.0, 1e-7, 1e-4]), jnp.linspace(0.01, 1, 100), 1 - jnp.array([1e-4, 2.0**-24])])
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(schedules.rates(schedule, t)))


@pytest.mark.parametrize("shift", [0.25, 3.0])
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_a_shift_lowers_log_snr_by_twice_its_log_and_keeps_the_norm(schedule, shift):
    shifted, t = schedules.Shifted(base=schedule, shift=shift), TIMES[1:-1]
    lowered = schedules.logsnr(schedule, t) - 2 * np.log(shift)
    np.testing.assert_allclose(schedules.logsnr(shifted, t), lowered, rtol=1e-5, atol=1e-5)
    (alpha, sigma), (base_alpha, base_sigma) = shifted(t), schedule(t)
    if (base_alpha == 1).all():
        assert (alpha == 1).all()
    else:
        power = 1 if np.allclose(base_alpha + base_sigma, 1) else 2
        np.testing.assert_allclose(alpha**power + sigma**power, base_alpha**power + base_sigma**power, rtol=1e-6)


def test_a_shifted_flow_is_the_flow_at_a_shifted_time():
    """arXiv 2403.03206, eq. 23."""
    alpha, sigma = schedules.Shifted(base=schedules.RectifiedFlow(), shift=3.0)(TIMES)
    expected = 3 * TIMES / (1 + 2 * TIMES)
    np.testing.assert_allclose(sigma, expected, rtol=1e-6)
    np.testing.assert_allclose(alpha, 1 - expected, atol=1e-7)
    assert (float(alpha[-1]), float(sigma[-1])) == (0, 1)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_shifts_multiply(schedule):
    twice = schedules.Shifted(base=schedules.Shifted(base=schedule, shift=2.0), shift=1.5)
    for a, b in zip(twice(TIMES), schedules.Shifted(base=schedule, shift=3.0)(TIMES), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_a_shift_of_one_changes_nothing():
    for schedule in SCHEDULES.values():
        for a, b in zip(schedules.Shifted(base=schedule, shift=1.0)(TIMES), schedule(TIMES), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-6)


@pytest.mark.parametrize("base", [schedules.FromBetas.scaled_linear(), schedules.FromBetas.linear(50, last=0.3)])
def test_zero_terminal_snr_is_the_published_rescaling(base):
    """arXiv 2305.08891, alg. 1, on the table; its fixed point is the first entry, ours the data at t = 0."""
    betas = np.asarray(base.betas, np.float64)
    alphas_bar_sqrt = np.sqrt(np.cumprod(1 - betas))
    a, z = alphas_bar_sqrt[0], alphas_bar_sqrt[-1]
    published = (alphas_bar_sqrt - z) * a / (a - z)
    t = (jnp.arange(len(betas)) + 1) / len(betas)
    alpha, sigma = schedules.ZeroTerminalSNR(base=base)(t)
    np.testing.assert_allclose(alpha * a * (1 - z) / (a - z), published, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(sigma**2 + alpha**2, 1, rtol=1e-6)
    np.testing.assert_allclose(alpha, published, rtol=4e-5 if len(betas) == 1000 else 1e-3, atol=1e-6)
    assert (float(alpha[-1]), float(sigma[-1])) == (0, 1)


def test_zero_terminal_snr_of_one_is_itself():
    for a, b in zip(COMPOSED["zero terminal cosine"](TIMES), schedules.Cosine()(TIMES), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("base", [schedules.RectifiedFlow(), schedules.EDM(), schedules.VarianceExploding()])
def test_zero_terminal_snr_refuses_a_base_of_other_variance(base):
    with pytest.raises(ValueError, match="variance-preserving base"):
        schedules.ZeroTerminalSNR(base=base)


class SubVP:
    """sigma = 1 - alpha^2 (arXiv 2011.13456, eq. 29): neither norm is kept."""

    def __call__(self, t):
        alpha = jnp.exp(-5 * jnp.asarray(t) ** 2)
        return alpha, 1 - alpha**2

    def inverse(self, logsnr):
        raise NotImplementedError


def test_shifted_refuses():
    with pytest.raises(ValueError, match="positive, got 0"):
        schedules.Shifted(base=schedules.Cosine(), shift=0.0)
    with pytest.raises(ValueError, match="SubVP keeps none"):
        schedules.Shifted(base=SubVP(), shift=2.0)


def test_compositions_may_be_made_and_swept_inside_jit():
    """Nothing about a base whose numbers are traced is checked; which norm it keeps is still found."""
    traces = []

    @jax.jit
    def alpha(beta_max, shift):
        traces.append(1)
        base = schedules.LinearBeta(beta_max=beta_max)
        return schedules.ZeroTerminalSNR(base=schedules.Shifted(base=base, shift=shift))(0.4)[0]

    for beta_max, shift in ((10.0, 2.0), (20.0, 3.0)):
        base = schedules.Shifted(base=schedules.LinearBeta(beta_max=beta_max), shift=shift)
        np.testing.assert_allclose(alpha(beta_max, shift), schedules.ZeroTerminalSNR(base=base)(0.4)[0], rtol=1e-5)
    assert len(traces) == 1


def test_a_sweep_over_numbers_compiles_once():
    traces = []

    @jax.jit
    def alpha(schedule, t):
        traces.append(1)
        return schedule(t)[0]

    for beta_max in (10.0, 20.0, 30.0):
        alpha(schedules.LinearBeta(beta_max=beta_max), 0.5)
    assert len(traces) == 1
