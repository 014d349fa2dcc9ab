"""Weightings are the losses of their papers, written in the errors of x0 and eps, and bounded at both ends of time.

That a weighted loss does not depend on the prediction is in `test_predictions.py`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conformance import NO_VELOCITY_AT_ONE, SCHEDULES, WEIGHTINGS

from jaxdiff import Gaussian, predictions, schedules
from jaxdiff import weightings as weights

ALL = {
    **WEIGHTINGS,
    "edm 2": weights.edm(sigma_data=2.0),
    "min_snr 1": weights.min_snr(gamma=1.0),
    "p2 half": weights.p2(k=0.3, gamma=0.5),
    "sigmoid -3": weights.sigmoid(bias=-3.0),
}


def of_the_paper(weighting, logsnr, slope, errors):
    """The loss of an example, in the words of the paper: `errors` are squared, `slope` is dlogsnr/dt."""
    snr = np.exp(logsnr)
    match weighting:
        case weights.edm(sigma_data=sd):
            hat = snr**-0.5  # the standard deviation of the noise beside data of alpha = 1
            return (hat**2 + sd**2) / (hat * sd) ** 2 * errors["x0"]
        case weights.min_snr(gamma=gamma):
            return np.minimum(snr, gamma) * errors["x0"]
        case weights.p2(k=k, gamma=gamma):
            return errors["eps"] / (k + snr) ** gamma
        case weights.sigmoid(bias=bias):
            return -slope / 2 / (1 + np.exp(logsnr - bias)) * errors["eps"]
        case _:
            return errors[type(weighting).__name__]


@pytest.mark.parametrize("w", ALL)
@pytest.mark.parametrize("s", SCHEDULES)
def test_each_weighting_is_the_loss_of_its_paper(w, s):
    """In NumPy's float64 from the errors of x0 and eps alone; rates by differences."""
    x0, eps, guess = np.random.default_rng(0).normal(size=(3, 30, 5))
    t, h = np.linspace(0.0312, 0.9688, 30)[:, None], 1e-6
    with jax.enable_x64(True):
        schedule = jax.tree.map(jnp.float64, SCHEDULES[s])
        at = lambda t: tuple(np.asarray(a) for a in schedule(jnp.asarray(t)))
        (alpha, sigma), before, after = at(t), at(t - h), at(t + h)
        x_t = alpha * x0 + sigma * eps
        error = {"x0": guess - x0, "eps": (x_t - alpha * guess) / sigma - eps}
        error["v"] = alpha * error["eps"] - sigma * error["x0"]
        d_alpha, d_sigma = ((b - a) / (2 * h) for a, b in zip(before, after, strict=True))
        error["velocity"] = d_alpha * error["x0"] + d_sigma * error["eps"]
        logsnr = lambda pair: 2 * np.log(pair[0] / pair[1])[:, 0]
        slope = (logsnr(after) - logsnr(before)) / (2 * h)
        errors = {name: (e**2).mean(1) for name, e in error.items()}
        expected = of_the_paper(ALL[w], logsnr((alpha, sigma)), slope, errors)

        process = Gaussian(schedule=schedule, prediction=predictions.v())
        v = lambda x0: jnp.asarray((alpha * x_t - (alpha**2 + sigma**2) * x0) / sigma)
        time = jnp.asarray(t[:, 0])
        loss = ALL[w](schedule, time) * process.loss(v(guess), jnp.asarray(x_t), v(x0), time)
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


@pytest.mark.parametrize("w", ALL)
@pytest.mark.parametrize("s", SCHEDULES)
def test_weights_are_finite_and_not_negative_up_to_both_ends(w, s):
    if w == "velocity" and s in NO_VELOCITY_AT_ONE:
        pytest.skip("its rates are infinite there")
    t = jnp.array([0.0, 1e-7, 1e-4, 0.3, 1 - 1e-4, 1 - 2**-24, 1.0])
    value = ALL[w](SCHEDULES[s], t)
    assert jnp.isfinite(value).all() and (value >= 0).all()
    assert value[3] > 0


def test_p2_without_strength_is_eps():
    for schedule in SCHEDULES.values():
        t = jnp.linspace(0, 1, 11)
        np.testing.assert_allclose(weights.p2(gamma=0.0)(schedule, t), weights.eps()(schedule, t), rtol=1e-6)


@pytest.mark.parametrize("bias", [-3.0, 0.0, 2.0])
def test_the_sigmoid_loss_does_not_depend_on_the_schedule(bias):
    """Its integral over uniform times is one over log-SNR: where e_eps = 1, that of sigmoid(bias - logsnr) / 2."""
    low, high = -6.0, 4.0
    closed = 0.5 * (np.logaddexp(0, bias - low) - np.logaddexp(0, bias - high))
    with jax.enable_x64(True):
        for schedule in (schedules.Cosine(), schedules.RectifiedFlow(), schedules.LinearBeta(), schedules.EDM()):
            start, end = (schedule.inverse(jnp.float64(edge)) for edge in (high, low))
            t = start + (end - start) * (jnp.arange(20_000) + 0.5) / 20_000
            of_eps = weights.sigmoid(bias=bias)(schedule, t) / weights.eps()(schedule, t)
            np.testing.assert_allclose(of_eps.mean() * (end - start), closed, rtol=1e-4)


@pytest.mark.parametrize("k", [0.0, -1.0])
def test_a_weight_without_bound_is_refused(k):
    with pytest.raises(ValueError, match="k must be above 0"):
        weights.p2(k=k)


def test_a_sweep_of_numbers_compiles_once():
    traces = []

    @jax.jit
    def weight(weighting, t):
        traces.append(1)
        return weighting(schedules.Cosine(), t)

    for k in (0.5, 1.0, 2.0):
        weight(weights.p2(k=k, gamma=k), jnp.linspace(0, 1, 5))
    assert len(traces) == 1
