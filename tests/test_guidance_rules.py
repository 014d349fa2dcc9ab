"""Guidance rules: reductions to one another, what each keeps and changes, and that the idle half is not evaluated."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conformance import mixture

from jaxdiff import Gaussian, guidance, sample, schedules, solvers
from jaxdiff.guidance import apg, interval, rescale, scale

SCHEDULE = schedules.Cosine()
EXACT = mixture().denoiser(SCHEDULE)
COND, NULL = jnp.array([0, 1, 2, 2]), jnp.int32(-1)
X, C, U = jax.random.normal(jax.random.key(0), (3, 4, 3, 5))
T = jnp.float32(0.5)
AXES = (1, 2)

# Functions of the guidance scale, so that every rule can be asked for scale 1.
RULES = {
    "scale": lambda w: scale(scale=w),
    "apg": lambda w: apg(scale=w, eta=0.3, norm_threshold=2.0),
    "rescale": lambda w: rescale(rule=scale(scale=w), phi=0.6),
    "interval": lambda w: interval(rule=scale(scale=w), low=0.2, high=0.8),
    "all": lambda w: interval(rule=rescale(rule=interval(rule=apg(scale=w), low=0.3), phi=0.5), high=0.7),
}
each = pytest.mark.parametrize("name", RULES)


def norm(a):
    return np.sqrt((np.asarray(a) ** 2).sum(AXES))


@each
def test_scale_one_is_the_conditional_estimate(name):
    np.testing.assert_allclose(RULES[name](1.0)(X, T, C, U), C, rtol=1e-5, atol=1e-6)
    assert jnp.abs(RULES[name](3.0)(X, T, C, U) - C).max() > 0.1


@each
def test_where_both_estimates_agree_there_is_nothing_to_guide(name):
    """So a guided denoiser is the identity at t = 0, exactly, as every denoiser is."""
    np.testing.assert_array_equal(RULES[name](5.0)(X, T, C, C), C)
    guided = guidance.classifier_free(EXACT, COND, NULL, RULES[name](5.0))
    np.testing.assert_array_equal(guided(X[:, 0, :2], jnp.float32(0.0)), X[:, 0, :2])


@each
def test_each_sample_is_guided_on_its_own(name):
    """Its own scale, its own norms and deviations: a batch is its samples."""
    scales = jnp.array([0.0, 1.5, 3.0, 8.0])
    together = RULES[name](scales)(X, T, C, U)
    for i in range(4):
        alone = RULES[name](scales[i])(X[i : i + 1], T, C[i : i + 1], U[i : i + 1])
        np.testing.assert_allclose(together[i : i + 1], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "values"),
    [
        (lambda v: rescale(rule=scale(scale=4.0), phi=v), [0.0, 0.2, 0.7, 1.0]),
        (lambda v: apg(scale=4.0, eta=v), [0.0, 0.3, 1.0, 2.0]),
        (lambda v: apg(scale=4.0, norm_threshold=v), [0.1, 1.0, 3.0, np.inf]),
    ],
    ids=["phi", "eta", "norm_threshold"],
)
def test_every_number_may_be_one_for_each_sample(make, values):
    together = make(jnp.array(values))(X, T, C, U)
    for i, value in enumerate(values):
        np.testing.assert_allclose(together[i], make(value)(X, T, C, U)[i], rtol=1e-5, atol=1e-6)


@each
def test_one_trace_serves_every_number(name):
    traces = []

    @jax.jit
    def run(rule, t):
        traces.append(1)
        return rule(X, t, C, U)

    rules = [jax.tree.map(lambda a, f=f: jnp.float32(a * f), RULES[name](2.0)) for f in (1.0, 0.9, 0.8)]
    results = [run(rule, T) for rule in rules]
    assert len(traces) == 1
    assert all(jnp.abs(other - results[0]).max() > 1e-3 for other in results[1:])


@each
@pytest.mark.parametrize("case", ["equal", "zero", "different"])
def test_gradients_are_finite(name, case):
    """Also where a norm or a deviation is zero; with respect to the estimates and to the rule's numbers."""
    c, u = {"equal": (C, C), "zero": (jnp.zeros_like(C), jnp.zeros_like(C)), "different": (C, U)}[case]
    rule = jax.tree.map(jnp.float32, RULES[name](3.0))
    gradients = jax.grad(lambda c, u, rule: rule(X, T, c, u).sum(), argnums=(0, 1, 2))(c, u, rule)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_rescale_without_a_share_is_the_rule_and_with_all_of_it_has_the_spread_of_c():
    rule = scale(scale=5.0)
    guided = rule(X, T, C, U)
    np.testing.assert_array_equal(rescale(rule=rule, phi=0.0)(X, T, C, U), guided)
    whole, half = (rescale(rule=rule, phi=phi)(X, T, C, U) for phi in (1.0, 0.5))
    np.testing.assert_allclose(whole.std(AXES), C.std(AXES), rtol=1e-5)
    assert (guided.std(AXES) > 2 * C.std(AXES)).all()
    np.testing.assert_allclose(half, 0.5 * (whole + guided), rtol=1e-5, atol=1e-6)


def test_rescale_in_x0_is_the_published_one_where_v_is_minus_x0():
    """Eq. 15-16 applied to v = alpha eps - sigma x0: the same at alpha = 0, another number elsewhere."""

    def published(alpha, sigma, phi=0.7, w=5.0):
        v = lambda x0: alpha * (X - alpha * x0) / sigma - sigma * x0
        guided = v(U) + w * (v(C) - v(U))
        rescaled = guided * (v(C).std(AXES, keepdims=True) / guided.std(AXES, keepdims=True))
        return alpha * X - sigma * (phi * rescaled + (1 - phi) * guided)

    ours = rescale(rule=scale(scale=5.0), phi=0.7)(X, T, C, U)
    np.testing.assert_allclose(ours, published(0.0, 1.0), rtol=1e-4, atol=1e-5)
    assert jnp.abs(ours - published(0.8, 0.6)).max() > 0.1


def test_apg_with_all_of_the_parallel_part_and_no_threshold_is_scale():
    np.testing.assert_allclose(apg(scale=4.0, eta=1.0)(X, T, C, U), scale(scale=4.0)(X, T, C, U), rtol=1e-4, atol=1e-5)


def test_apg_without_the_parallel_part_moves_across_the_conditional_estimate():
    move = apg(scale=4.0, eta=0.0)(X, T, C, U) - C
    np.testing.assert_allclose((move * C).sum(AXES), 0, atol=1e-4)
    whole = 3.0 * (C - U)
    np.testing.assert_allclose((move * whole).sum(AXES), norm(move) ** 2, rtol=1e-4)  # the rest was along c
    half = apg(scale=4.0, eta=0.5)(X, T, C, U) - C
    np.testing.assert_allclose(half, 0.5 * (move + whole), rtol=1e-4, atol=1e-5)


def test_the_norm_threshold_shortens_what_is_longer_and_nothing_else():
    lengths = norm(C - U)
    threshold = float(np.median(lengths))
    move = apg(scale=4.0, eta=1.0, norm_threshold=threshold)(X, T, C, U) - C
    np.testing.assert_allclose(norm(move), 3.0 * np.minimum(lengths, threshold), rtol=1e-4)
    cosine = (np.asarray(move) * np.asarray(C - U)).sum(AXES) / (norm(move) * lengths)
    np.testing.assert_allclose(cosine, 1, rtol=1e-5)


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_an_interval_of_all_times_is_the_rule(t):
    rule = scale(scale=3.0)
    np.testing.assert_array_equal(interval(rule=rule)(X, jnp.float32(t), C, U), rule(X, jnp.float32(t), C, U))


def test_an_interval_holds_its_bounds_and_is_conditional_outside():
    rule = interval(rule=scale(scale=3.0), low=0.25, high=0.75)
    inside = scale(scale=3.0)(X, T, C, U)
    for t, expected in ((0.2, C), (0.25, inside), (0.75, inside), (0.8, C)):
        np.testing.assert_array_equal(rule(X, jnp.float32(t), C, U), expected)
    clock = jnp.array([0.2, 0.25, 0.75, 0.8])
    expected = jnp.stack([C[0], inside[1], inside[2], C[3]])
    np.testing.assert_array_equal(rule(X, clock, C, U), expected)
    np.testing.assert_array_equal(rule(X, clock[:, None], C, U), expected)


def counted(rows, denoise=EXACT):
    """A denoiser that notes, when it runs, how many rows it is given."""

    def run(x, t, cond=None):
        jax.debug.callback(lambda _, size=x.shape[0]: rows.append(size), t)
        return denoise(x, t, cond)

    return run


SKIPPING = {
    "interval": lambda low, high: interval(rule=scale(scale=3.0), low=low, high=high),
    "inside rescale": lambda low, high: rescale(rule=interval(rule=scale(scale=3.0), low=low, high=high), phi=0.5),
    "nested": lambda low, high: interval(rule=interval(rule=apg(scale=3.0), low=low), high=high),
}


@pytest.mark.parametrize("name", SKIPPING)
def test_outside_the_interval_half_of_the_rows_are_skipped(name):
    """What runs on the device, in the sampler: one trace, and any bounds."""
    rows, traces = [], []
    denoise, process, grid = counted(rows), Gaussian(schedule=SCHEDULE), jnp.linspace(1, 0, 9)

    @jax.jit
    def run(low, high):
        traces.append(1)
        guided = guidance.classifier_free(denoise, COND, NULL, SKIPPING[name](low, high))
        return sample(jax.random.key(0), process, guided, solvers.DDIM(), grid, x=X[:, 0, :2])[0]

    for low, high in ((0.3, 0.7), (0.0, 1.0), (0.9, 0.95), (0.5, 0.5)):
        rows.clear()
        jax.block_until_ready(run(jnp.float32(low), jnp.float32(high)))
        jax.effects_barrier()
        times = np.asarray(grid[:-1])
        assert sorted(rows) == sorted(np.where((low <= times) & (times <= high), 8, 4).tolist())
    assert len(traces) == 1


@pytest.mark.parametrize("t", [0.1, 0.5])
def test_skipping_does_not_change_the_value(t):
    x, rule = X[:, 0, :2], interval(rule=scale(scale=3.0), low=0.3, high=0.7)
    cond = functools.partial(guidance.classifier_free, EXACT, COND, NULL)
    expected = EXACT(x, t, COND) if t < 0.3 else cond(scale(scale=3.0))(x, jnp.float32(t))
    np.testing.assert_allclose(cond(rule)(x, jnp.float32(t)), expected, rtol=1e-6, atol=1e-6)
    # One time for each sample: selected, not skipped.
    np.testing.assert_allclose(cond(rule)(x, jnp.full(4, t)), expected, rtol=1e-5, atol=1e-6)


def test_times_of_each_sample_make_the_whole_call():
    rows = []
    rule = interval(rule=scale(scale=3.0), low=0.3, high=0.7)
    guidance.classifier_free(counted(rows), COND, NULL, rule)(X[:, 0, :2], jnp.array([0.1, 0.1, 0.5, 0.9]))
    jax.effects_barrier()
    assert rows == [8]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: interval(rule=scale(), low=0.6, high=0.4), "0 <= low <= high <= 1"),
        (lambda: interval(rule=scale(), low=-0.1), "0 <= low <= high <= 1"),
        (lambda: interval(rule=scale(), high=jnp.float32(80.0)), "schedule.inverse"),
        (lambda: rescale(rule=scale(), phi=1.2), "phi"),
        (lambda: rescale(rule=scale(), phi=jnp.array([0.5, -1.0])), "phi"),
        (lambda: apg(norm_threshold=0.0), "no threshold"),
    ],
)
def test_numbers_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
