"""Guidance for tokens: of x0 through masks, and of the law of a step for every kind of noise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2
from token_laws import PROCESSES, TABLE, K, L

from jaxdiff import Discrete, Gaussian, guidance, oracles, sample, schedules, solvers

KEY = jax.random.key(0)
SIZE = 20_000
OTHER = np.array([[0.05, 0.15, 0.10], [0.20, 0.05, 0.15], [0.10, 0.15, 0.05]])
sampler = functools.partial(jax.jit, static_argnames=("spec", "trajectory"))(sample)
KINDS = pytest.mark.parametrize("name", ["mask", "uniform"])


def exact(process, table=TABLE, other=OTHER):
    """The denoiser of the law `table` for the condition 0 and of `other` for -1."""
    laws = [oracles.EnumeratedTokens(probabilities=np.array(table)) for table in (table, other)]

    def denoise(z, t, cond):
        c, u = (law.denoise(z, process, t) for law in laws)
        return jnp.where((cond == 0)[:, None, None], c, u)

    return denoise


def guided(process, scale=1.0, size=SIZE, rule=None, **laws):
    rule = guidance.scale(scale=scale) if rule is None else rule
    return guidance.classifier_free(exact(process, **laws), jnp.zeros(size, jnp.int32), jnp.int32(-1), rule)


def surprise(x, law):
    """Pearson's statistic of tokens (B, L) in units of its bound: wrong above 1."""
    counts = np.zeros(law.shape)
    np.add.at(counts, tuple(np.asarray(x).T), 1)
    return ((counts - law * len(x)) ** 2 / (law * len(x))).sum() / chi2.ppf(1 - 1e-5, law.size - 1)


# --- of x0


def test_guided_masks_follow_the_conditional_law_and_its_powers():
    """One token at a time, exactly: at scale w the first to go has p_c^w p_u^(1 - w), the other that given it."""
    process, spec = Discrete.masked(K), jax.ShapeDtypeStruct((SIZE, L), jnp.int32)

    def tilted(w):
        power = lambda c, u, axis: (lambda p: p / p.sum(axis, keepdims=True))(c**w * u ** (1 - w))
        law = 0.0
        for i in range(L):  # the token that goes first
            c, u = (table.sum(1 - i, keepdims=True) for table in (TABLE, OTHER))
            law = law + 0.5 * power(c, u, i) * power(TABLE / c, OTHER / u, 1 - i)
        return law

    for w in (1.0, 0.0, 2.5):
        solver, grid = solvers.FirstHitting(), jnp.array([1.0, 0.0])
        x, info = sampler(KEY, process, guided(process, jnp.float32(w)), solver, grid, spec=spec)
        assert surprise(x, tilted(w)) < 1 and int(info.nfe) == L
    np.testing.assert_allclose(tilted(1.0), TABLE)
    assert surprise(x, TABLE) > 10


def test_guided_log_probabilities_keep_what_is_certain():
    """Tokens that are no masks stay certain at every scale; masks have a law; neighbours in the call are no others."""
    process, z = Discrete.masked(K), jnp.array([[0, K], [K, 2], [K, K], [1, 0]], jnp.int32)
    t, network = jnp.array([0.3, 0.6, 0.9, 0.2]), jax.random.normal(KEY, (5, L, K))
    denoise = process.denoiser(lambda z, t, cond: network[cond] + t[:, None, None])
    cond, uncond = jnp.arange(4), jnp.full(4, 4)
    for scale in (0.0, 1.0, 7.5, jnp.array([-1.0, 0.0, 2.0, 30.0])):
        of = guidance.classifier_free(denoise, cond, uncond, guidance.scale(scale=scale))
        p = np.exp(np.asarray(jax.nn.log_softmax(of(z, t))))
        np.testing.assert_array_equal(p[z < K], np.eye(K)[np.asarray(z[z < K])])
        w = np.broadcast_to(np.asarray(scale), 4)[:, None, None]
        c, u = (np.exp(np.asarray(denoise(z, t, which))) for which in (cond, uncond))
        with np.errstate(divide="ignore", invalid="ignore"):
            power = c**w * u ** (1 - w)
        masked = np.asarray(z == K)
        np.testing.assert_allclose(p[masked], (power / power.sum(-1, keepdims=True))[masked], rtol=2e-5)
    inside = guidance.interval(rule=guidance.scale(scale=3.0), low=0.5, high=1.0)
    for time, expected in ((0.8, guidance.scale(scale=3.0)), (0.2, guidance.scale())):
        of = lambda rule: guidance.classifier_free(
            process.denoiser(lambda z, t, cond: network[cond]), cond, uncond, rule
        )(z, jnp.float32(time))
        np.testing.assert_allclose(of(inside), of(expected), atol=1e-5)
    auto = guidance.autoguidance(denoise, denoise, guidance.scale(scale=2.0), cond=cond)
    np.testing.assert_allclose(auto(z, t), denoise(z, t, cond), atol=1e-5)


@pytest.mark.parametrize("solver", [solvers.Ancestral(), guidance.BridgeGuidance()], ids=["x0", "step"])
def test_known_tokens_come_back_to_the_bit(solver):
    process, size = Discrete.masked(K), 64
    value = jnp.stack([jnp.arange(size) % K, jnp.full(size, -7)], 1).astype(jnp.int32)
    inner = process.denoiser(exact(process), observed=(jnp.array([[True, False]]), value))
    of = guidance.classifier_free(inner, jnp.zeros(size, jnp.int32), jnp.int32(-1), guidance.scale(scale=4.0))
    spec = jax.ShapeDtypeStruct((size, L), jnp.int32)
    x, _ = sampler(KEY, process, of, solver, jnp.linspace(1, 0, 5), spec=spec)
    np.testing.assert_array_equal(x[:, 0], value[:, 0])
    assert (x < K).all() and (x >= 0).all()


# --- of a step


@KINDS
def test_the_ends_of_the_scale_are_ancestral_to_the_bit(name):
    """With the same keys: the conditional denoiser at 1, the unconditional at 0, one compilation for both."""
    process, size, traces = PROCESSES[name](), 500, []
    spec, grid = jax.ShapeDtypeStruct((size, L), jnp.int32), jnp.linspace(1, 0, 7)

    @jax.jit
    def run(scale, grid):
        traces.append(1)
        return sample(KEY, process, guided(process, scale, size), guidance.BridgeGuidance(), grid, spec=spec)

    @jax.jit
    def plain(cond):
        of = guidance.condition(exact(process), jnp.full(size, cond))
        return sample(KEY, process, of, solvers.Ancestral(), grid, spec=spec)[0]

    (c, info), (u, _), (far, _) = (run(jnp.float32(scale), grid) for scale in (1, 0, 3))
    np.testing.assert_array_equal(c, plain(0))
    np.testing.assert_array_equal(u, plain(-1))
    assert (c != u).any() and (far != c).any() and (far < K).all()
    assert int(info.nfe) == 6 and len(traces) == 1


@KINDS
def test_a_step_has_the_tilted_law(name):
    """p_c^w p_u^(1 - w), normalised, of the two steps' laws, by the sum over x0 of Bayes' rule; s = 0 too."""
    with jax.enable_x64(True):
        process, w = PROCESSES[name](), 2.5
        states = len(process.pi)
        z = jnp.stack([jnp.arange(states), jnp.full(states, states - 1)], 1).astype(jnp.int32)
        denoise, pi = guided(process, w, states), np.asarray(process.pi)
        step = lambda keep: keep * np.eye(states) + (1 - keep) * pi
        for t, s in ((0.8, 0.3), (0.6, 0.0)):
            logits = guidance.BridgeGuidance().logits(process, denoise, z, jnp.array(t), jnp.array(s))
            found = np.asarray(jax.nn.softmax(logits))
            laws = []
            for log_probs in denoise.pair(z, jnp.array(t)):
                p = np.exp(np.asarray(log_probs))
                law = np.zeros((states, L, states))
                for i, j, k in np.ndindex(states, L, K):
                    if p[i, j, k] > 0:
                        at = int(z[i, j])
                        law[i, j] += p[i, j, k] * step((1 - t) / (1 - s))[:, at] * step(1 - s)[k] / step(1 - t)[k, at]
                laws.append(law)
            c, u = laws
            power = np.where((c > 0) & (u > 0), c**w * np.where(u > 0, u, 1.0) ** (1 - w), 0)
            np.testing.assert_allclose(found, power / power.sum(-1, keepdims=True), atol=1e-10)


def test_samples_of_a_step_have_its_law():
    """Uniform noise: counted, and another law than that of the step with guided x0."""
    process, t, s = Discrete.uniform(K), jnp.float32(0.5), jnp.float32(0.2)
    z, denoise, solver = (
        jnp.tile(jnp.array([[0, 2]], jnp.int32), (SIZE, 1)),
        guided(process, 4.0),
        guidance.BridgeGuidance(),
    )
    x, _ = sampler(KEY, process, denoise, solver, jnp.array([t, s]), x=z)
    one = guided(process, 4.0, 1)
    p = np.asarray(jax.nn.softmax(solver.logits(process, one, z[:1], t, s)))[0]
    other = np.exp(np.asarray(process.bridge_logits(one(z[:1], t), z[:1], t, s)))[0]
    assert surprise(x, np.outer(*p)) < 1 < surprise(x, np.outer(*other)) / 10


def test_nothing_is_infinite_where_a_law_has_no_place():
    """Probabilities that float32 cannot hold, of one law or of both; what both exclude is never drawn."""
    process, z = Discrete.masked(K), jnp.array([[K, 1]], jnp.int32)
    c, u = jnp.array([-0.5, -1.0, -300.0]), jnp.array([-300.0, -0.1, -300.0])
    denoise = process.denoiser(
        lambda z, t, cond: jnp.where((cond == 0)[:, None, None], c, u) + jnp.zeros((*z.shape, K))
    )
    for s in (0.3, 0.0):
        for scale in (-1.0, 0.0, 0.5, 1.0, 3.0):
            of = guidance.classifier_free(denoise, jnp.zeros(1, jnp.int32), jnp.int32(-1), guidance.scale(scale=scale))
            logits = guidance.BridgeGuidance().logits(process, of, z, jnp.float32(0.6), jnp.float32(s))
            p = np.asarray(jax.nn.softmax(logits))
            assert np.isfinite(logits).all() and p[0, 0, 2] == 0
            np.testing.assert_array_equal(p[0, 1], np.eye(K + 1)[1])
            if scale == 1:
                expected = process.bridge_logits(of.pair(z, 0.6)[0], z, 0.6, s)
                np.testing.assert_allclose(p, np.exp(expected), atol=3e-5)


def test_a_sample_does_not_depend_on_its_batch():
    process = PROCESSES["hybrid"]()

    def run(size, first):
        spec, of = jax.ShapeDtypeStruct((size, L), jnp.int32), guided(process, 3.0, size)
        return sampler(KEY, process, of, guidance.BridgeGuidance(), jnp.linspace(1, 0, 5), spec=spec, first=first)[0]

    np.testing.assert_array_equal(run(64, 0), np.concatenate([run(32, 0), run(32, 32)]))


def test_bad_arguments_say_what_to_do():
    process, x, grid = Discrete.uniform(K), jnp.zeros((2, L), jnp.int32), jnp.array([1.0, 0.0])
    denoise = oracles.EnumeratedTokens(probabilities=TABLE.copy()).denoiser(process)
    with pytest.raises(ValueError, match=r"needs the denoiser of guidance\.classifier_free itself, got TokenDenoiser"):
        sample(KEY, process, denoise, guidance.BridgeGuidance(), grid, x=x)
    with pytest.raises(ValueError, match="needs a process of tokens, with bridge_logits, got Gaussian"):
        guidance.BridgeGuidance().init(Gaussian(schedule=schedules.Cosine()), x, grid)
