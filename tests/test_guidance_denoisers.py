"""Guided denoisers of more than one model against exact ones: autoguidance, classifiers, thresholds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conformance import NO_SIGNAL_AT_ONE, SCHEDULES, mixture

from jaxdiff import Gaussian, guidance, oracles, sample, schedules, solvers

SCHEDULE = schedules.Cosine()
PROCESS = Gaussian(schedule=SCHEDULE)
EXACT = mixture().denoiser(SCHEDULE)
NULL = jnp.int32(-1)
X = jax.random.normal(jax.random.key(0), (6, 2))
COND = jnp.array([0, 1, 2, 2, 1, 0])
EACH = jnp.linspace(0.1, 0.9, 6)
sampler = functools.partial(jax.jit, static_argnames=("spec",))(sample)


def gaussian(mean, schedule=SCHEDULE):
    """The exact denoiser of N(mean, C); C is the same for every mean."""
    covariance = np.array([[0.5, 0.2], [0.2, 0.3]])
    law = oracles.GaussianMixture(weights=np.ones(1), means=np.asarray(mean)[None], covariances=covariance[None])
    return law.denoiser(schedule)


# --- the guided law that is known: Gaussians of one covariance


@pytest.mark.parametrize("t", [0.0, 0.5, 1.0, EACH], ids=["data", "half", "noise", "each"])
@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
def test_autoguidance_between_gaussians_is_the_denoiser_of_the_extrapolated_one(t, weight):
    """Scores of N(m, C) are linear in m, so guiding N(m1, C) away from N(m0, C) is N(m0 + scale (m1 - m0), C)."""
    good, bad = np.array([1.0, -0.5]), np.array([0.4, 0.2])
    guided = guidance.autoguidance(gaussian(good), gaussian(bad), guidance.scale(scale=weight))
    expected = gaussian(bad + weight * (good - bad))
    np.testing.assert_allclose(guided(X, jnp.asarray(t)), expected(X, jnp.asarray(t)), rtol=1e-4, atol=1e-5)


def test_samples_of_autoguidance_follow_the_extrapolated_gaussian():
    size, good, bad = 4000, np.array([1.0, -0.5]), np.array([0.4, 0.2])
    guided = guidance.autoguidance(gaussian(good), gaussian(bad), guidance.scale(scale=jnp.float32(3.0)))
    spec = jax.ShapeDtypeStruct((size, 2), jnp.float32)
    x, _ = sampler(jax.random.key(0), PROCESS, guided, solvers.DPMpp2M(), jnp.linspace(1, 0, 41), spec=spec)
    np.testing.assert_allclose(x.mean(0), bad + 3 * (good - bad), atol=4 * np.sqrt(0.5 / size) + 0.01)
    np.testing.assert_allclose(np.cov(x.T), [[0.5, 0.2], [0.2, 0.3]], atol=0.05)


# --- autoguidance


def noted(calls, name, value=EXACT):
    def denoise(x, t, cond=None):
        jax.debug.callback(lambda _, size=x.shape[0]: calls.append((name, size)), t)
        return value(x, t, cond)

    return denoise


def test_autoguidance_with_itself_is_itself():
    for weight in (0.0, 2.0, 9.0):
        guided = guidance.autoguidance(EXACT, EXACT, guidance.scale(scale=weight), cond=COND)
        np.testing.assert_array_equal(guided(X, jnp.float32(0.4)), EXACT(X, jnp.float32(0.4), COND))


def test_autoguidance_calls_each_denoiser_once_and_the_bad_one_only_inside_an_interval():
    calls = []
    rule = guidance.interval(rule=guidance.scale(scale=3.0), low=0.3, high=0.7)
    guided = guidance.autoguidance(noted(calls, "good"), noted(calls, "bad", gaussian(np.zeros(2))), rule, cond=COND)
    for t, expected in ((0.5, [("bad", 6), ("good", 6)]), (0.2, [("good", 6)])):
        calls.clear()
        value = guided(X, jnp.float32(t))
        jax.effects_barrier()
        assert sorted(calls) == expected
    np.testing.assert_array_equal(value, EXACT(X, jnp.float32(0.2), COND))
    calls.clear()
    guided(X, EACH)  # times of each sample: selected, not skipped
    jax.effects_barrier()
    assert sorted(calls) == [("bad", 6), ("good", 6)]


def test_autoguidance_inside_classifier_free_guidance():
    """The condition goes through to both: rows (c0, u0, ...) of good and of bad."""
    t, bad = jnp.float32(0.5), mixture().denoiser(schedules.LinearBeta())
    auto = guidance.autoguidance(EXACT, bad, guidance.scale(scale=2.0))
    both = guidance.classifier_free(auto, COND, NULL, guidance.scale(scale=3.0))(X, t)
    one = lambda cond: bad(X, t, cond) + 2 * (EXACT(X, t, cond) - bad(X, t, cond))
    unknown = jnp.full(6, -1)
    np.testing.assert_allclose(both, one(unknown) + 3 * (one(COND) - one(unknown)), rtol=1e-4, atol=1e-4)


# --- a classifier


def log_prob(schedule, labels, x, t):
    """The exact log p(k | x_t): each component's own density against the mixture's."""
    law = mixture()
    parts = [
        oracles.GaussianMixture(weights=np.ones(1), means=law.means[k : k + 1], covariances=law.covariances[k : k + 1])
        for k in range(3)
    ]
    joint = jnp.stack([part.log_density(x, schedule, t) for part in parts], 1) + jnp.log(law.weights)
    return joint[jnp.arange(labels.shape[0]), labels] - law.log_density(x, schedule, t)


def classified(schedule, scale=1.0, labels=COND):
    exact = jax.tree_util.Partial(functools.partial(log_prob, schedule), labels)
    return guidance.classifier(mixture().denoiser(schedule), exact, Gaussian(schedule=schedule), scale)


@pytest.mark.parametrize("s", SCHEDULES)
@pytest.mark.parametrize("t", [0.3, EACH], ids=["one", "each"])
def test_an_exact_classifier_makes_the_exact_conditional_denoiser(s, t):
    """And with any scale the line through both, as classifier-free guidance is."""
    with jax.enable_x64(True):
        schedule, clock = SCHEDULES[s], jnp.asarray(t, jnp.float64)
        sigma = jnp.reshape(schedule(clock)[1], (-1, 1))
        x = jnp.asarray(X, jnp.float64) * jnp.sqrt(1 + sigma**2)
        c = mixture().denoise(x, schedule, clock, COND)
        u = mixture().denoise(x, schedule, clock)
        scales = jnp.linspace(0.0, 3.0, 6)
        np.testing.assert_allclose(classified(schedule)(x, clock), c, rtol=1e-8, atol=1e-10)
        expected = u + scales[:, None] * (c - u)
        np.testing.assert_allclose(classified(schedule, scales)(x, clock), expected, rtol=1e-8, atol=1e-9)
        assert jnp.abs(c - u).max() > 1e-2


@pytest.mark.parametrize("s", NO_SIGNAL_AT_ONE)
def test_without_signal_there_is_no_correction(s):
    """alpha = 0 at t = 1: the plain denoiser, and finite gradients."""
    guided, plain = classified(SCHEDULES[s], 5.0), mixture().denoiser(SCHEDULES[s])
    np.testing.assert_array_equal(guided(X, jnp.float32(1.0)), plain(X, jnp.float32(1.0)))
    assert jnp.isfinite(jax.grad(lambda x: guided(x, jnp.float32(1.0)).sum())(X)).all()


def test_at_the_data_there_is_no_correction():
    """Even where the classifier has no gradient: at t = 0 every denoiser is the identity."""
    steep = lambda x, t: -(x**2).sum(1) / t
    guided = guidance.classifier(EXACT, steep, PROCESS, 2.0)
    np.testing.assert_array_equal(guided(X, jnp.float32(0.0)), X)
    clock = jnp.array([0.0, 0.5, 0.0, 0.5, 0.0, 0.5])
    value = guided(X, clock)
    np.testing.assert_array_equal(value[::2], X[::2])
    assert jnp.isfinite(value).all()


def test_one_trace_serves_every_scale_and_label():
    traces = []

    @jax.jit
    def run(guided, t):
        traces.append(1)
        return guided(X, t)

    prob = functools.partial(log_prob, SCHEDULE)
    make = lambda labels, scale: guidance.classifier(EXACT, jax.tree_util.Partial(prob, labels), PROCESS, scale)
    results = [
        run(make(labels, jnp.float32(scale)), jnp.float32(t))
        for labels, scale, t in ((COND, 1.0, 0.5), (COND, 3.0, 0.5), ((COND + 1) % 3, 1.0, 0.5), (COND, 1.0, 0.7))
    ]
    assert len(traces) == 1
    assert all(jnp.abs(other - results[0]).max() > 1e-2 for other in results[1:])


def test_a_plain_function_goes_through_jit():
    guided = guidance.classifier(lambda x, t, cond=None: 0.5 * x, lambda x, t: -(x**2).sum(1), PROCESS)
    value = jax.jit(lambda guided, x, t: guided(x, t))(guided, X, jnp.float32(0.5))
    np.testing.assert_allclose(value, 0.5 * X - 2 * X * np.sqrt(0.5), rtol=1e-5)


@pytest.mark.parametrize("prob", [lambda x, t: x.sum(), lambda x, t: x, lambda x, t: x.sum(1, keepdims=True)])
def test_a_classifier_gives_one_number_a_sample(prob):
    with pytest.raises(ValueError, match="one number for each"):
        guidance.classifier(EXACT, prob, PROCESS)(X, jnp.float32(0.5))


# --- thresholds

LOUD = 3 * jax.random.normal(jax.random.key(1), (5, 4, 25))
loud = jax.tree_util.Partial(lambda x, t, cond=None: LOUD[: x.shape[0]])


@pytest.mark.parametrize("limit", [1.0, 2.0])
@pytest.mark.parametrize("quantile", [0.0, 0.9, 0.995, 1.0])
def test_dynamic_threshold_is_the_formula_of_the_paper_for_each_sample(quantile, limit):
    value = guidance.dynamic_threshold(loud, quantile, limit)(LOUD, jnp.float32(0.5))
    for got, x0 in zip(np.asarray(value), np.asarray(LOUD), strict=True):
        s = max(np.quantile(np.abs(x0), quantile), limit)
        np.testing.assert_allclose(got, np.clip(x0, -s, s) * limit / s, rtol=1e-5, atol=1e-6)
    assert jnp.abs(value).max() <= limit * (1 + 1e-6)


def test_dynamic_threshold_leaves_what_is_in_range():
    denoise = lambda x, t, cond=None: x / jnp.abs(x).max()
    value = guidance.dynamic_threshold(denoise, 0.9)(LOUD, jnp.float32(0.5))
    np.testing.assert_array_equal(value, denoise(LOUD, 0.5))


def test_dynamic_threshold_takes_a_quantile_and_a_limit_of_each_sample():
    quantiles, limits = jnp.linspace(0.5, 1.0, 5), jnp.linspace(0.5, 3.0, 5)
    together = guidance.dynamic_threshold(loud, quantiles, limits)(LOUD, jnp.float32(0.5))
    for i in range(5):
        alone = guidance.dynamic_threshold(loud, quantiles[i], limits[i])(LOUD, jnp.float32(0.5))
        np.testing.assert_allclose(together[i], alone[i], rtol=1e-6)


def test_dynamic_threshold_keeps_the_data_at_time_zero():
    denoise = guidance.dynamic_threshold(lambda x, t, cond=None: x, 0.5)
    np.testing.assert_array_equal(denoise(LOUD, jnp.float32(0.0)), LOUD)
    value = denoise(LOUD, jnp.array([0.0, 0.5, 0.0, 0.5, 0.5]))
    np.testing.assert_array_equal(value[jnp.array([0, 2])], LOUD[jnp.array([0, 2])])
    assert jnp.abs(value[1]).max() <= 1


def test_dynamic_threshold_around_guidance_passes_the_condition_on():
    plain = guidance.dynamic_threshold(EXACT, 1.0, 100.0)
    np.testing.assert_array_equal(plain(X, jnp.float32(0.5), COND), EXACT(X, jnp.float32(0.5), COND))
    guided = guidance.classifier_free(EXACT, COND, NULL, guidance.scale(scale=20.0))
    assert jnp.abs(guided(X, jnp.float32(0.8))).max() > 2
    assert jnp.abs(guidance.dynamic_threshold(guided)(X, jnp.float32(0.8))).max() <= 1 + 1e-6


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"quantile": 99.5}, "quantile=0.995"),
        ({"quantile": -0.1}, "quantile"),
        ({"quantile": jnp.array([0.5, 1.5])}, "quantile"),
        ({"limit": 0.0}, "limit"),
    ],
)
def test_thresholds_out_of_range_are_refused(numbers, message):
    with pytest.raises(ValueError, match=message):
        guidance.dynamic_threshold(EXACT, **numbers)
