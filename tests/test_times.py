"""Training times: where they lie, how they are distributed, and that the layout of a batch does not move them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxdiff import schedules, times

DRAWS = {"independent": times.independent, "stratified": times.stratified, "antithetic": times.antithetic}
LAWS = {
    "uniform": times.uniform,
    "uniform above": lambda draw: times.uniform(low=0.001, high=1.0, draw=draw),
    "logit_normal": times.logit_normal,
    "logit_normal wide": lambda draw: times.logit_normal(std=30.0, draw=draw),
    "edm": lambda draw: times.edm(schedule=schedules.EDM(sigma_max=1.0), draw=draw),
}
each_draw = pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
each_law = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
LAST = 2**31 - 1


def inside(t):
    return bool(((t > 0) & (t < 1)).all())


@each_law
@each_draw
def test_times_lie_inside(law, draw):
    """Every law, with the last indices and the ends of the seeds."""
    for seed, index in ((0, jnp.arange(16)), (2**63 - 1, LAST - jnp.arange(16))):
        t = law(draw=draw)(jax.random.key(seed), index, 16)
        assert t.shape == (16,) and t.dtype == jnp.float32 and inside(t)


@pytest.mark.parametrize("x64", [False, True])
@each_law
@each_draw
def test_the_extreme_uniform_numbers_lie_inside(law, draw, x64, monkeypatch):
    """The smallest and the largest number that `jax.random.uniform` can give."""
    with jax.enable_x64(x64):
        for u in (0.0, 1 - (2.0**-52 if x64 else 2.0**-23)):
            monkeypatch.setattr(jax.random, "uniform", lambda *_: jnp.asarray(u, jnp.result_type(float)))
            assert inside(law(draw=draw)(jax.random.key(0), jnp.arange(16), 5))


@pytest.mark.parametrize("size", [1, 7, 64])
@pytest.mark.parametrize("first", [0, 12345, LAST - 200])
def test_stratified_puts_one_time_in_each_stratum(size, first):
    """Any window of consecutive indices, in any order: equal spacing 1 / size around the circle."""
    index = jax.random.permutation(jax.random.key(5), first + jnp.arange(size))
    for seed in range(5):
        t = np.sort(times.stratified(jax.random.key(seed), index, size))
        place = t * size - np.arange(size)
        assert place.min() > -1e-5 * size and place.max() < 1 + 1e-5 * size
        np.testing.assert_allclose(place, place[0], atol=1e-6 * size)


def test_stratified_lowers_the_variance_of_a_mean():
    keys, index = jax.random.split(jax.random.key(0), 500), jnp.arange(16)
    variance = lambda draw: float(jax.vmap(lambda key: (draw(key, index, 16) ** 2).mean())(keys).var())
    assert variance(times.stratified) < 0.1 * variance(times.independent)


def test_antithetic_pairs():
    index = jnp.arange(4, 20)
    t = times.uniform(draw=times.antithetic)(jax.random.key(0), index, 16)
    np.testing.assert_array_equal(t[::2] + t[1::2], jnp.ones(8))
    assert len(np.unique(t)) == 16
    t = times.logit_normal(draw=times.antithetic)(jax.random.key(0), index, 16)
    np.testing.assert_allclose(t[::2] + t[1::2], 1, atol=1e-5)


@each_law
@each_draw
def test_times_do_not_depend_on_the_layout(law, draw):
    """The part of a batch that a device holds gets the times it has in the whole batch."""
    law, key, index = law(draw=draw), jax.random.key(3), 40 + jnp.arange(16)
    whole = law(key, index, 16)
    assert len(np.unique(whole)) > 1
    np.testing.assert_array_equal(law(key, index[8:], 16), whole[8:])
    order = jax.random.permutation(jax.random.key(1), 16)
    np.testing.assert_array_equal(law(key, index[order], 16), whole[order])
    assert not np.array_equal(law(jax.random.key(4), index, 16), whole)


def marginal(law, index):
    """One example's time over many keys: independent draws of the law, whatever the draw within a batch."""
    keys = jax.random.split(jax.random.key(11), 4000)
    return np.asarray(jax.jit(jax.vmap(lambda key: law(key, jnp.array([index]), 8)[0]))(keys), np.float64)


@each_draw
@pytest.mark.parametrize("index", [0, 5])
def test_marginal_laws(draw, index):
    fits = lambda sample, law: scipy.stats.kstest(sample, law.cdf).pvalue > 1e-3
    t = marginal(times.uniform(low=0.1, high=0.7, draw=draw), index)
    assert fits(t, scipy.stats.uniform(0.1, 0.6)) and not fits(t, scipy.stats.uniform(0.12, 0.6))
    t = marginal(times.logit_normal(mean=0.5, std=1.5, draw=draw), index)
    assert fits(scipy.special.logit(t), scipy.stats.norm(0.5, 1.5))


@pytest.mark.parametrize("schedule", [schedules.EDM(), schedules.VarianceExploding(), schedules.Cosine()])
def test_edm_noise_scales_are_log_normal(schedule):
    alpha, sigma = schedule(jnp.asarray(marginal(times.edm(schedule=schedule, mean=-1.0, std=0.9), 3)))
    assert (
        scipy.stats.kstest(np.log(np.asarray(sigma / alpha, np.float64)), scipy.stats.norm(-1.0, 0.9).cdf).pvalue > 1e-3
    )


def test_edm_noise_scales_above_the_schedule_come_last():
    """Up to the schedule's largest noise scale the law is the normal one; the tail is drawn at the end."""
    t = marginal(times.edm(schedule=schedules.EDM(sigma_max=1.0)), 3)
    normal, last = scipy.stats.norm(-1.2, 1.2), t >= 1 - 2.0**-23
    assert abs(last.mean() - normal.sf(0.0)) < 4 * np.sqrt(normal.sf(0.0) / len(t))
    assert scipy.stats.kstest(normal.cdf(np.log(t[~last])) / normal.cdf(0.0), "uniform").pvalue > 1e-3
