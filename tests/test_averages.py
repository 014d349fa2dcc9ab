"""Averages of the parameters: their weights, their lengths, and averages that were not kept."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import averages
from jaxdiff.averages import exponential, power

STEPS, EVERY, WIDTHS = 1600, 100, (0.05, 0.10)


def gamma(width):
    return power.of_width(width).gamma


def weights(step, gamma):
    """Of the parameters after each update, by the definition: the profile's integral over each step."""
    ends = (np.arange(step + 1) / step) ** (gamma + 1)
    return np.diff(ends)


@functools.cache
def trajectory(kind):
    """Parameters like those of a run: they move towards an optimum, noisily, with a learning rate that decays."""
    draw, params, path = np.random.default_rng(0), np.ones(200), []
    optimum = draw.normal(size=200)
    for i in range(STEPS):
        rate = {"walk": 0.0, "ou": 0.02 * (1 - 0.9 * i / STEPS)}[kind]
        params = params + rate * (optimum - params) + 0.01 * draw.normal(size=200)
        path.append(params)
    return np.array(path)


def tracked(average, path):
    """The average after each update, by `update` in one scan with a traced step."""

    def body(ema, at):
        ema = averages.update(average, ema, at[1], at[0])
        return ema, ema

    return jax.jit(jax.lax.scan, static_argnums=0)(body, jnp.full_like(path[0], 7.0), (jnp.arange(len(path)), path))[1]


@pytest.mark.parametrize(("width", "exponent"), [(0.05, 16.97), (0.10, 6.94)])
def test_the_exponents_are_those_of_the_paper(width, exponent):
    """arXiv 2312.02696, sec. 3.1."""
    assert round(gamma(width), 2) == exponent


@pytest.mark.parametrize("width", [1e-3, 0.01, 0.05, 0.1, 0.2, 0.28, 0.2886])
def test_the_width_is_the_standard_deviation_of_the_profile(width):
    average = power.of_width(width)
    assert average.width == pytest.approx(width, rel=1e-9)
    tau = (np.arange(1_000_000) + 0.5) / 1_000_000
    f = weights(1_000_000, average.gamma)
    mean = f @ tau
    assert np.sqrt(f @ (tau - mean) ** 2) == pytest.approx(width, rel=1e-4)


@pytest.mark.parametrize("exponent", [0.0, 1.5, gamma(0.10), gamma(0.05)])
def test_power_weighs_each_update_by_its_part_of_the_profile(exponent):
    """Exactly, whatever the average started from: the first update replaces it."""
    path = trajectory("walk")[:300]
    with jax.enable_x64(True):
        emas = tracked(power(gamma=exponent), jnp.asarray(path))
    for step in (1, 2, 37, 300):
        w = weights(step, exponent)
        assert w.sum() == pytest.approx(1, abs=1e-12)
        np.testing.assert_allclose(emas[step - 1], w @ path[:step], rtol=1e-10, atol=1e-12)
    if exponent == 0:
        np.testing.assert_allclose(emas[-1], path.mean(0), rtol=1e-10)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_exponential_weighs_by_products_of_decays(decay):
    path = trajectory("walk")[:50]
    decays = [min(decay, (1 + n) / (10 + n)) for n in range(50)]
    w = np.array([(1 - decays[i]) * np.prod(decays[i + 1 :]) for i in range(50)])
    with jax.enable_x64(True):
        ema = tracked(exponential(decay=decay), jnp.asarray(path))[-1]
    np.testing.assert_allclose(ema, w @ path + 7.0 * np.prod(decays), rtol=1e-10)


@pytest.mark.parametrize("average", [exponential(), power(gamma=0.0), power.of_width(0.05), power.of_width(0.01)])
@pytest.mark.parametrize("step", [0, 1, 7, 1000, 10**6 - 1, 10**7 - 1])
def test_float32_resolves_what_one_update_adds(average, step):
    """decay and 1 - decay, the second also where the decay rounds to 1."""
    if isinstance(average, power):
        log = (average.gamma + 1) * np.log1p(-1 / (step + 1)) if step else -np.inf
        decay, fresh = np.exp(log), -np.expm1(log)
    else:
        decay = min(average.decay, (1 + step) / (10 + step))
        fresh = 1 - decay
    for count in (step, jnp.int32(step), jnp.float32(step)):
        np.testing.assert_allclose(jax.jit(average)(count), decay, rtol=1e-5)
        np.testing.assert_allclose(jax.jit(average.fresh)(count), fresh, rtol=1e-5)
        ema = averages.update(average, jnp.zeros(()), jnp.ones(()), count)
        np.testing.assert_allclose(ema, fresh, rtol=1e-5)


def test_one_trace_serves_every_length():
    traces = []

    @jax.jit
    def run(average, step):
        traces.append(1)
        return averages.update(average, {"w": jnp.zeros(3)}, {"w": jnp.ones(3)}, step)

    for i, width in enumerate((0.02, 0.05, 0.1)):
        np.testing.assert_allclose(
            run(power.of_width(width), i)["w"], 1 - (i / (i + 1)) ** (gamma(width) + 1), rtol=1e-5
        )
    assert len(traces) == 1


def test_a_function_of_ones_own_is_an_average():
    ema = averages.update(lambda step: 0.25 * step, jnp.zeros(2), jnp.ones(2), 2)
    np.testing.assert_allclose(ema, 0.5)


def test_the_average_keeps_its_dtype_and_is_computed_wider():
    """A float32 average of bfloat16 parameters gathers updates that bfloat16 could not hold."""
    ema, params = {"w": jnp.ones(4)}, {"w": jnp.full(4, 2, jnp.bfloat16)}
    for _ in range(10):
        ema = averages.update(lambda step: 0.999, ema, params, 0)
    assert ema["w"].dtype == jnp.float32
    np.testing.assert_allclose(ema["w"], 2 - 0.999**10, rtol=1e-6)
    assert averages.update(exponential(), params, {"w": jnp.ones(4)}, 0)["w"].dtype == jnp.bfloat16


def test_inner_products_are_the_integrals():
    """The closed form against the midpoint rule, and the sum over the weights of the updates."""
    profiles = [(1000, 6.94), (1000, 16.97), (400, 6.94), (750, 0.0), (1000, 0.5)]
    edges = np.linspace(0, 1000, 2_000_001)
    tau, width = (edges[1:] + edges[:-1]) / 2, edges[1]
    values = [np.where(tau < t, (g + 1) / t * (tau / t) ** g, 0.0) for t, g in profiles]
    for (s, a), f in zip(profiles, values, strict=True):
        assert f.sum() * width == pytest.approx(1, rel=1e-6)
        for (t, b), g in zip(profiles, values, strict=True):
            closed = averages._inner(*map(np.float64, (s, a, t, b)))
            assert closed == pytest.approx((f * g).sum() * width, rel=1e-5)


def stored(until=STEPS):
    return [(step, gamma(width)) for step in range(EVERY, until + 1, EVERY) for width in WIDTHS]


@functools.cache
def snapshots(kind):
    """Every sixteenth of the run, two widths, as training tracks them in float32."""
    path = jnp.asarray(trajectory(kind), jnp.float32)
    emas = {gamma(width): tracked(power.of_width(width), path) for width in WIDTHS}
    return {(step, g): {"w": emas[g][step - 1]} for step, g in stored()}


def distance(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.mark.parametrize("kind", ["walk", "ou"])
@pytest.mark.parametrize("step", [STEPS, 1200, 800])
@pytest.mark.parametrize("width", [0.07, 0.12])
def test_an_average_that_was_not_kept_is_reconstructed(kind, step, width):
    target, pairs = (step, gamma(width)), stored(step)
    truth = weights(*target) @ trajectory(kind)[:step]
    loaded = (snapshots(kind)[pair] for pair in pairs)
    result = averages.reconstruct(loaded, pairs, target)["w"]
    assert result.dtype == jnp.float32
    last = trajectory(kind)[step - 1]
    assert distance(result, truth) < 1e-3
    assert np.linalg.norm(result - truth) < 0.01 * np.linalg.norm(last - truth)  # a hundredth of what averaging does
    assert averages.misfit(pairs, target) < 0.02
    # Neither the nearest width that was kept nor another target will do.
    for other in (snapshots(kind)[step, gamma(0.10)]["w"], weights(step, gamma(0.2)) @ trajectory(kind)[:step]):
        assert np.linalg.norm(other - truth) > 20 * np.linalg.norm(result - truth)
    wrong = averages.reconstruct([snapshots(kind)[pair] for pair in pairs], [(s, g / 2) for s, g in pairs], target)["w"]
    assert np.linalg.norm(wrong - truth) > 20 * np.linalg.norm(result - truth)


def test_what_was_kept_comes_back_exactly():
    pairs = stored()
    for i in (3, 17, len(pairs) - 1):
        step, _ = pairs[i]
        x = averages.coefficients(pairs[: i + 1] if step < STEPS else pairs, pairs[i])
        np.testing.assert_allclose(x, np.eye(len(x))[i], atol=1e-8)
        assert averages.misfit(pairs[: i + 1], pairs[i]) < 1e-6


@pytest.mark.parametrize("target", [(1600, 10.0), (1600, 0.0), (1570, 400.0)])
def test_parameters_that_stand_still_come_back(target):
    pairs = [pair for pair in stored() if pair[0] <= target[0]]
    assert averages.coefficients(pairs, target).sum() == pytest.approx(1, abs=1e-9)


def test_no_other_combination_of_sum_one_is_closer():
    """The coefficients minimise the distance of the profiles, measured on the weights of the updates."""
    pairs, target = stored(), (STEPS, gamma(0.07))
    profiles = np.array([np.pad(weights(*pair), (0, STEPS - pair[0])) for pair in pairs])
    error = lambda x: np.linalg.norm(x @ profiles - weights(*target)) / np.linalg.norm(weights(*target))
    best = averages.coefficients(pairs, target)
    assert error(best) == pytest.approx(averages.misfit(pairs, target), rel=0.05)  # sums over steps, not integrals
    draw = np.random.default_rng(1)
    for size in (1e-2, 1e-1):
        for _ in range(20):
            change = draw.normal(size=len(pairs))
            assert error(best + size * (change - change.mean())) > error(best)


def test_the_misfit_says_what_cannot_be_reconstructed():
    pairs = stored()
    easy, narrow = (averages.misfit(pairs, (STEPS, gamma(width))) for width in (0.07, 0.01))
    between = averages.misfit(stored(1500), (1560, gamma(0.07)))
    assert easy < 0.01 < 0.1 < narrow < 1
    assert between > 0.1


def test_long_runs_do_not_overflow():
    pairs = [(step * 10**9, g) for step in range(1, 17) for g in (gamma(0.05), gamma(0.005))]
    target = (16 * 10**9, gamma(0.01))
    small = [(step // 10**9, g) for step, g in pairs]
    expected = averages.coefficients(small, (16, target[1]))
    np.testing.assert_allclose(averages.coefficients(pairs, target), expected, rtol=1e-6, atol=1e-9)


def test_a_snapshot_given_twice_shares_its_coefficient():
    pairs, target = [(8, 7.0), (10, 7.0), (10, 17.0)], (10, 12.0)
    once, twice = averages.coefficients(pairs, target), averages.coefficients([*pairs, pairs[1]], target)
    np.testing.assert_allclose([twice[1] + twice[3], *twice[[0, 2]]], once[[1, 0, 2]], rtol=1e-6)


def test_any_tree_in_any_dtype_is_reconstructed():
    trees = [{"a": np.full(3, i, np.float32), "b": [jnp.full((2, 2), i, jnp.bfloat16)]} for i in (1, 2)]
    pairs, target = [(10, 7.0), (10, 17.0)], (10, 12.0)
    result = averages.reconstruct(trees, pairs, target)
    expected = averages.coefficients(pairs, target) @ np.array([1, 2])
    assert jax.tree.structure(result) == jax.tree.structure(trees[0])
    assert result["b"][0].dtype == jnp.bfloat16 and result["b"][0].shape == (2, 2)
    np.testing.assert_allclose(result["a"], expected, rtol=1e-6)
    np.testing.assert_allclose(result["b"][0].astype(jnp.float32), expected, rtol=1e-2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: exponential(decay=1.0), r"in \[0, 1\)"),
        (lambda: exponential(decay=-0.1), r"in \[0, 1\)"),
        (lambda: power(gamma=-0.5), "at least 0"),
        (lambda: power(gamma=float("nan")), "at least 0"),
        (lambda: power.of_width(0.0), r"in \(0, 0\.2887\)"),
        (lambda: power.of_width(0.3), r"in \(0, 0\.2887\)"),
        (lambda: averages.coefficients([], (10, 7.0)), "no snapshots"),
        (lambda: averages.coefficients([(10, 7.0)], (9, 7.0)), "leave out the newer"),
        (lambda: averages.coefficients([(0, 7.0)], (9, 7.0)), "step > 0"),
        (lambda: averages.coefficients([(10, -1.0)], (10, 7.0)), "gamma >= 0"),
        (lambda: averages.misfit([(10, 7.0)], (9, 7.0)), "leave out the newer"),
        (lambda: averages.reconstruct([1.0], [(9, 7.0), (10, 7.0)], (10, 7.0)), "need as many snapshots, got 1"),
        (lambda: averages.reconstruct(iter([1.0]), [(9, 7.0), (10, 7.0)], (10, 7.0)), "need as many snapshots, got 1"),
        (lambda: averages.reconstruct(iter([1.0, 2.0]), [(10, 7.0)], (10, 7.0)), "need as many snapshots, got more"),
    ],
)
def test_what_cannot_be_done_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
