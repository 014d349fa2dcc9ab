"""Guidance against the exact denoisers of a mixture: a class is a component, and -1, the null class, the mixture."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conformance import mixture

from jaxdiff import Gaussian, grids, guidance, predictions, sample, schedules, solvers

SCHEDULE = schedules.Cosine()
PROCESS = Gaussian(schedule=SCHEDULE)
EXACT = mixture().denoiser(SCHEDULE)
NULL = jnp.int32(-1)
X = jax.random.normal(jax.random.key(0), (6, 2))
COND = jnp.array([0, 1, 2, 2, 1, 0])
sampler = functools.partial(jax.jit, static_argnames=("spec",))(sample)


def guided(scale, denoise=EXACT, cond=COND, uncond=NULL):
    return guidance.classifier_free(denoise, cond, uncond, guidance.scale(scale=scale))


@pytest.mark.parametrize("t", [0.5, jnp.linspace(0.1, 0.9, 6), jnp.array([0.5])], ids=["one", "each", "shared"])
def test_scale_is_the_line_through_both_estimates(t):
    """1 is conditional, 0 unconditional, and 3 as far beyond as the formula says."""
    t = jnp.asarray(t)
    c, u = EXACT(X, t, COND), EXACT(X, t, jnp.full(6, -1))
    assert jnp.abs(c - u).max() > 0.1
    for scale, expected in ((1.0, c), (0.0, u), (3.0, u + 3 * (c - u))):
        np.testing.assert_allclose(guided(scale)(X, t), expected, rtol=1e-5, atol=1e-6)


def test_one_call_of_twice_the_batch_interleaved():
    calls = []

    def denoise(x, t, cond=None):
        calls.append((x, t, cond))
        return x

    t = jnp.linspace(0.1, 0.9, 6)
    cond = {"label": COND, "text": jnp.arange(18.0).reshape(6, 3)}
    guided(2.0, denoise, cond, {"label": NULL, "text": jnp.full(3, -7.0)})(X, t)
    ((x, clock, pairs),) = calls
    for i in range(6):
        np.testing.assert_array_equal(x[2 * i : 2 * i + 2], jnp.stack([X[i], X[i]]))
        np.testing.assert_array_equal(clock[2 * i : 2 * i + 2], jnp.stack([t[i], t[i]]))
        np.testing.assert_array_equal(pairs["label"][2 * i : 2 * i + 2], jnp.array([COND[i], -1]))
        np.testing.assert_array_equal(pairs["text"][2 * i], cond["text"][i])
        np.testing.assert_array_equal(pairs["text"][2 * i + 1], jnp.full(3, -7.0))
    assert x.shape == (12, 2) and pairs["label"].dtype == COND.dtype
    guided(2.0, denoise)(X, 0.25)
    assert len(calls) == 2 and float(calls[1][1]) == 0.25 and jnp.ndim(calls[1][1]) == 0  # a scalar clock stays one


def test_a_null_condition_of_every_sample_is_the_shared_one():
    np.testing.assert_array_equal(guided(2.0)(X, 0.5), guided(2.0, uncond=jnp.full(6, -1))(X, 0.5))


def test_each_sample_may_have_its_own_scale():
    scales = jnp.array([0.0, 1.0, 1.5, 2.0, 3.0, 7.0])
    together = guided(scales)(X, 0.5)
    for i, scale in enumerate(scales):
        np.testing.assert_allclose(together[i], guided(scale)(X, 0.5)[i], rtol=1e-6)
    grid = jnp.linspace(1, 0, 5)
    run = lambda scale: sampler(jax.random.key(1), PROCESS, guided(scale), solvers.DDIM(), grid, x=X)[0]
    np.testing.assert_allclose(run(scales)[4], run(scales[4])[4], rtol=1e-4, atol=1e-5)


def test_one_trace_serves_every_scale_condition_and_network():
    traces = []

    def network(w, x, t, cond):
        traces.append(1)
        return w * x + cond[:, None]

    def run(scale, cond, w):
        denoise = PROCESS.denoiser(jax.tree_util.Partial(network, w))
        x, _ = sampler(
            jax.random.key(0), PROCESS, guided(scale, denoise, cond), solvers.DDIM(), jnp.linspace(1, 0, 4), x=X
        )
        return x

    first = run(jnp.float32(1.0), COND, 0.1)
    count = len(traces)
    others = [run(jnp.float32(4.0), COND, 0.1), run(jnp.float32(1.0), COND + 1, 0.1), run(jnp.float32(1.0), COND, 0.2)]
    assert len(traces) == count
    assert all(jnp.abs(other - first).max() > 1e-2 for other in others)


@pytest.mark.parametrize(
    ("cond", "uncond"),
    [
        (COND, None),
        (COND, {"label": NULL}),
        ({"label": COND}, {"text": NULL}),
        ({"label": COND, "text": COND}, {"label": NULL}),
    ],
)
def test_conditions_of_different_structure_are_refused(cond, uncond):
    with pytest.raises(ValueError, match="same structure"):
        guided(1.0, cond=cond, uncond=uncond)


def test_a_fixed_condition_is_one_plain_call():
    np.testing.assert_array_equal(guidance.condition(EXACT, COND)(X, 0.5), EXACT(X, 0.5, COND))
    np.testing.assert_allclose(guidance.condition(EXACT, COND)(X, 0.5), guided(1.0)(X, 0.5), rtol=1e-5, atol=1e-6)


def test_guidance_inside_guidance_and_a_rule_of_ones_own():
    """A rule is any function of (x, t, c, u); what comes out is a denoiser again."""
    seen = guidance.classifier_free(EXACT, COND, NULL, lambda x, t, c, u: jnp.stack([c, u, x]).sum(0))(X, 0.5)
    expected = EXACT(X, 0.5, COND) + EXACT(X, 0.5, jnp.full(6, -1)) + X
    np.testing.assert_allclose(seen, expected, rtol=1e-5, atol=1e-5)


SIZE = 3000


@functools.cache
def samples(k, scale):
    denoise = guided(jnp.float32(scale), cond=jnp.full(SIZE, k))
    grid, spec = grids.karras(SCHEDULE, 40, sigma_min=0.02), jax.ShapeDtypeStruct((SIZE, 2), jnp.float32)
    return np.asarray(sampler(jax.random.key(k), PROCESS, denoise, solvers.DPMpp2M(), grid, spec=spec)[0])


@pytest.mark.parametrize("k", range(3))
def test_samples_at_scale_one_follow_the_component(k):
    law, x = mixture(), samples(k, 1.0)
    np.testing.assert_allclose(x.mean(0), law.means[k], atol=4 * np.sqrt(0.12 / SIZE) + 0.01)
    np.testing.assert_allclose(np.cov(x.T), law.covariances[k], atol=0.012)


def test_samples_at_scale_zero_follow_the_mixture():
    law, x = mixture(), samples(0, 0.0)
    mean = law.weights @ law.means
    spread = law.means - mean
    cov = jnp.einsum("k,kij->ij", law.weights, law.covariances + spread[:, :, None] * spread[:, None])
    np.testing.assert_allclose(x.mean(0), mean, atol=0.06)
    np.testing.assert_allclose(np.cov(x.T), cov, atol=0.06)


@pytest.mark.parametrize("k", range(3))
def test_a_larger_scale_moves_away_from_the_other_components(k):
    """The mean distance to every other component grows with the scale."""
    others = np.delete(np.asarray(mixture().means), k, 0)
    distance = lambda scale: np.linalg.norm(samples(k, scale)[:, None] - others, axis=-1).mean(0)
    assert (distance(1.0) > distance(0.0).min()).all()
    assert (distance(2.0) > distance(1.0) + 0.02).all() and (distance(4.0) > distance(2.0) + 0.02).all()


def test_observed_elements_stay_observed_under_guidance():
    """The mask belongs to samples, guidance calls with twice as many rows: each pair shares its sample's mask."""
    process = Gaussian(schedule=schedules.Cosine(), prediction=predictions.x0())
    mask = jnp.array([[True, False], [False, True], [False, False]])
    value = jax.random.normal(jax.random.key(0), (3, 2))
    network = lambda x, t, cond: jnp.broadcast_to(cond[:, None].astype(x.dtype), x.shape)
    denoise = process.denoiser(network, observed=(mask, value))
    guided = guidance.classifier_free(denoise, jnp.arange(3), jnp.int32(0), guidance.scale(scale=2.0))
    expected = jnp.where(mask, value, 2.0 * jnp.arange(3)[:, None])
    np.testing.assert_array_equal(guided(jnp.zeros((3, 2)), jnp.float32(0.5)), expected)
