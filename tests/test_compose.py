"""Denoisers put together, against laws for which that is exact."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import Gaussian, grids, guidance, sample, schedules, solvers
from jaxdiff.conditioning import compose
from jaxdiff.oracles import GaussianMixture

SCHEDULE = schedules.Cosine()
CENTRES = (-1.0, 2.0)


def attributes():
    """Two binary attributes, each of its own coordinate: the law of both is the product of those of each."""
    places = jnp.array(list(itertools.product(CENTRES, CENTRES)))
    return GaussianMixture(weights=jnp.ones(4), means=places, covariances=jnp.full(4, 0.3))


def some(kept):
    """The law with the components (4,) of `kept`."""
    law = attributes()
    return GaussianMixture(weights=jnp.where(kept, 1.0, 1e-30), means=law.means, covariances=law.covariances)


def denoise(x, t, cond):
    """The exact denoiser of the attributes: cond (B, 2) in {0, 1}, -1 where nothing is known."""
    means = jnp.asarray(attributes().means)
    wanted = jnp.where(means > 0, 1, 0)
    fits = ((cond[:, None] == wanted) | (cond[:, None] < 0)).all(-1)
    one = lambda x, t, kept: some(kept).denoise(x[None], SCHEDULE, t)[0]
    return jax.vmap(one)(x, jnp.broadcast_to(t, x.shape[:1]), fits)


NULL = jnp.array([-1, -1])
X = jax.random.normal(jax.random.key(0), (6, 2))
TIMES = jnp.linspace(0.1, 0.9, 6)


@pytest.mark.parametrize("t", [jnp.float32(0.4), TIMES], ids=["one time", "each its own"])
def test_independent_concepts_together_are_exact(t):
    conds = jnp.broadcast_to(jnp.array([[1, -1], [-1, 0]]), (6, 2, 2))
    both = compose.concepts(denoise, conds, NULL, (1.0, 1.0))
    exact = denoise(X, t, jnp.broadcast_to(jnp.array([1, 0]), (6, 2)))
    np.testing.assert_allclose(jax.jit(lambda x, t: both(x, t))(X, t), exact, atol=1e-4)
    one = compose.concepts(denoise, conds[:, :1], NULL, (2.5,))
    rule = guidance.scale(scale=2.5)
    cfg = guidance.classifier_free(denoise, conds[:, 0], NULL, rule)
    np.testing.assert_allclose(one(X, t), cfg(X, t), atol=1e-5)
    none = compose.concepts(denoise, conds, NULL, (0.0, 0.0))
    np.testing.assert_allclose(none(X, t), denoise(X, t, jnp.broadcast_to(NULL, (6, 2))), atol=1e-6)


def test_a_negative_scale_pushes_away():
    conds = jnp.broadcast_to(jnp.array([[1, -1]]), (6, 1, 2))
    plain = denoise(X, 0.7, jnp.broadcast_to(NULL, (6, 2)))
    away = compose.concepts(denoise, conds, NULL, (-1.0,))(X, 0.7)
    assert (away[:, 0] < plain[:, 0]).all()
    np.testing.assert_allclose(away[:, 1], plain[:, 1], atol=1e-5)


def smooth(x, t, cond=None):
    """Looks at nothing but the place itself."""
    return jnp.tanh(x * (1 + t)) if cond is None else jnp.tanh(x) * cond.reshape(-1, 1, 1, 1)


def test_regions_take_their_own_part():
    x = jax.random.normal(jax.random.key(1), (3, 4, 6, 2))
    parts = [lambda x, t, cond=None: x + 1, lambda x, t, cond=None: x * 2]
    left = jnp.zeros((4, 6, 1)).at[:, :3].set(1.0)
    hard = compose.regions(parts, jnp.stack([left, 1 - left]))
    found = jax.jit(lambda x: hard(x, 0.5))(x)
    np.testing.assert_allclose(found[:, :, :3], x[:, :, :3] + 1, atol=1e-6)
    np.testing.assert_allclose(found[:, :, 3:], 2 * x[:, :, 3:], atol=1e-6)
    soft = compose.regions(parts, jnp.stack([2 * left + 1, 3 - 2 * left]))  # divided by their sum
    np.testing.assert_allclose(soft(x, 0.5)[:, 0, 0], 0.75 * (x + 1)[:, 0, 0] + 0.5 * x[:, 0, 0], atol=1e-5)


@pytest.mark.parametrize("circular", [False, True])
def test_windows_of_a_local_denoiser_are_the_denoiser_of_the_whole(circular):
    width = 16
    whole = compose.windows(smooth, (8, width), (8, 8), (8, 4), circular=(False, circular))
    x = jax.random.normal(jax.random.key(2), (2, 8, width, 3))
    for t in (jnp.float32(0.3), jnp.array([0.3, 0.8])):
        expected = jnp.tanh(x * (1 + jnp.reshape(t, (-1, 1, 1, 1))))
        local = compose.windows(
            lambda x, t, cond=None: jnp.tanh(x * (1 + jnp.reshape(t, (-1, 1, 1, 1)))),
            (8, width), (8, 8), (8, 4), circular=(False, circular),
        )  # fmt: skip
        np.testing.assert_allclose(jax.jit(lambda x, t: local(x, t))(x, t), expected, atol=1e-6)
    cond = jnp.array([1.0, 2.0])
    np.testing.assert_allclose(whole(x, 0.0, cond), jnp.tanh(x) * cond.reshape(-1, 1, 1, 1), atol=1e-6)


def test_a_circle_has_no_ends():
    """A denoiser that knows where it is in its window: the panorama turned is the result turned, only on a circle."""
    edge = lambda x, t, cond=None: x * jnp.linspace(0.0, 1.0, 8)[:, None]
    x = jax.random.normal(jax.random.key(3), (1, 8, 16, 1))
    around, flat = (
        compose.windows(edge, (8, 16), (8, 8), (8, 4), circular=(False, joined)) for joined in (True, False)
    )
    turned = lambda f: np.abs(jnp.roll(f(x, 0.5), 4, 2) - f(jnp.roll(x, 4, 2), 0.5)).max()
    assert turned(around) < 1e-6 < 0.1 < turned(flat)


def test_refusals_say_what_to_do():
    refused = lambda message: pytest.raises(ValueError, match=message)
    with refused("one array of weights for each denoiser, got 2 and"):
        compose.regions([smooth, smooth], jnp.ones((1, 4, 4, 1)))
    with refused("some part must have each place"):
        compose.regions([smooth], jnp.zeros((1, 4, 4, 1)))
    with refused("do not fit examples"):
        compose.regions([smooth], jnp.ones((1, 4, 4, 1)))(jnp.zeros((2, 5, 5, 1)), 0.5)
    with refused("got 3 scales"):
        compose.concepts(denoise, jnp.zeros((6, 2, 2), int), NULL, (1.0, 1.0, 1.0))
    with refused("lie on a canvas"):
        compose.windows(smooth, (8, 16), (8, 8), (8, 4))(jnp.zeros((1, 8, 20, 1)), 0.5)
    left = lambda **changes: compose.windows(
        smooth, (28, 48), (28, 28), (28, 20), **{"regions": halves(), "conds": jnp.arange(2), **changes}
    )
    for message, changes in (
        ("give both, or neither", {"conds": None}),
        (r"shape \(m, 28, 48\) with m conditions", {"conds": jnp.arange(3)}),
        (r"shape \(m, 28, 48\) with m conditions", {"regions": halves(40)}),
        ("some region must have each place", {"regions": halves() * halves()[:1]}),
        (r"in \(0.5, 1\], got 0.5", {"own": 0.5}),
    ):
        with refused(message):
            left(**changes)
    for canvas, window, stride, circular in (
        ((8, 16), (8, 8), (8, 3), (False, False)),
        ((8, 16), (8, 8), (8, 12), (False, False)),
        ((8, 6), (8, 8), (8, 2), (False, False)),
        ((8, 18), (8, 8), (8, 4), (False, True)),
    ):
        with refused("without gap or rest"):
            compose.windows(smooth, canvas, window, stride, circular=circular)


def constant(x, t, cond):
    """Says what it was told, everywhere."""
    return jnp.zeros_like(x) + cond.reshape(-1, 1, 1, 1)


def halves(width=48, border=None):
    left = jnp.zeros((28, width)).at[:, : border or width // 2].set(1.0)
    return jnp.stack([left, 1 - left])


def test_regions_of_windows_keep_to_their_place_or_fade():
    x, told = jnp.zeros((2, 28, 48, 1)), jnp.array([2.0, 6.0])
    make = lambda masks, own: compose.windows(
        constant, (28, 48), (28, 28), (28, 20), regions=masks, conds=told, own=own
    )
    hard = make(halves(), 1.0)
    assert len(hard.corners) == 4  # each window is told of both
    np.testing.assert_allclose(jax.jit(lambda x: hard(x, 0.5))(x)[1, 3, :, 0], np.repeat(told, 24), atol=1e-5)
    soft = make(halves(), 0.75)
    assert soft.corners == ((0, 0), (0, 20))
    found = np.asarray(soft(x, 0.5)[0, 3, :, 0])
    np.testing.assert_allclose(found[:20], 2.0, atol=1e-5)
    np.testing.assert_allclose(found[28:], 6.0, atol=1e-5)
    assert (np.diff(found[19:29]) > 0.1).all()
    shared = make(jnp.ones((2, 28, 48)), 1.0)
    np.testing.assert_allclose(shared(x, 0.5), 4.0, atol=1e-5)


def test_a_small_region_is_not_lost_in_a_large_window():
    box = jnp.zeros((8, 8)).at[:2, :2].set(1.0)
    said = compose.windows(
        constant, (8, 8), (8, 8), (8, 8), regions=jnp.stack([box, 1 - box]), conds=jnp.array([5.0, 1.0])
    )(jnp.zeros((1, 8, 8, 1)), 0.5)
    np.testing.assert_allclose(said[0, :, :, 0], 1 + 4 * box, atol=1e-5)


def test_samples_may_have_their_own_scales():
    conds = jnp.broadcast_to(jnp.array([[1, -1], [-1, 0]]), (6, 2, 2))
    each = jnp.where(jnp.arange(6)[:, None] < 3, jnp.array([1.0, 1.0]), jnp.array([2.0, 0.0]))
    mixed = compose.concepts(denoise, conds, NULL, each)(X, 0.4)
    for rows, scales in ((slice(0, 3), (1.0, 1.0)), (slice(3, 6), (2.0, 0.0))):
        np.testing.assert_allclose(mixed[rows], compose.concepts(denoise, conds, NULL, scales)(X, 0.4)[rows], atol=1e-6)


def gaussian(x, t, cond):
    """The exact denoiser of N(mean, variance), cond = (mean, variance)."""
    alpha, sigma = SCHEDULE(jnp.asarray(t))
    mean, variance = cond[:, :1], cond[:, 1:]
    return mean + alpha * variance / (alpha**2 * variance + sigma**2) * (x - alpha * mean)


def test_langevin_steps_bring_samples_nearer_to_the_product_of_concepts():
    """p1 p2 / p of normals is normal: precision 1/v1 + 1/v2 - 1/v, which a sum of scores misses."""
    size, pair, plain = 20_000, jnp.array([[0.8, 0.5], [-0.2, 0.5]]), jnp.array([0.0, 1.0])
    mean, variance = (0.8 / 0.5 - 0.2 / 0.5) / 3, 1 / 3
    both = compose.concepts(gaussian, jnp.broadcast_to(pair, (size, 2, 2)), plain, (1.0, 1.0))
    run, spec = jax.jit(sample, static_argnames="spec"), jax.ShapeDtypeStruct((size, 1), jnp.float32)

    def error(solver):
        grid = grids.logsnr(SCHEDULE, 60)
        x, _ = run(jax.random.key(0), Gaussian(schedule=SCHEDULE), both, solver, grid, spec=spec)
        return abs(float(x.mean()) - mean) + abs(float(x.var()) - variance)

    plainly = error(solvers.DDIM())
    corrected = error(solvers.PredictorCorrector(inner=solvers.DDIM(), corrections=6, snr=0.15))
    assert corrected < 0.5 * plainly and plainly > 0.05
