"""The ordinal process against matrix exponentials, exact laws of few tokens and its special case `Discrete.uniform`."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.linalg import expm
from scipy.stats import norm

from jaxdiff import Discrete, Ordinal, TrainState, likelihood, make_step, noise, oracles, sample, schedules, solvers
from jaxdiff.types import pytree

K, L = 4, 2


def law():
    """A law of two levels that are alike, made anew: JAX remembers a NumPy array seen in double precision."""
    table = np.array([[9.0, 5, 1, 1], [4, 8, 3, 1], [1, 6, 12, 2], [2, 1, 4, 7]])
    return oracles.EnumeratedTokens(probabilities=table / table.sum())


def make(beta=0.4, tokens=K, **options):
    return Ordinal.gaussian(tokens, beta=beta, **options)


def sequences():
    return jnp.array(list(itertools.product(range(K), repeat=L)), jnp.int32)


def generator(process):
    """Of the process in the unit of time -log alpha, found again from the rates, without a mode of its own."""
    r = np.array(process.rates, np.float64)
    np.fill_diagonal(r, 0)
    r = np.diag(r.sum(1)) - r
    return -r / np.linalg.eigvalsh(r)[1]


@pytree
class Unfinished:
    """alpha = 1 - 0.8 t: the data leave a trace at t = 1."""

    def __call__(self, t):
        t = jnp.asarray(t)
        return 1 - 0.8 * t, 0.8 * t

    def inverse(self, logsnr):
        return jax.nn.sigmoid(-0.5 * jnp.asarray(logsnr)) / 0.8


@pytest.mark.parametrize("values", [2, 5])
def test_equal_rates_are_the_uniform_process(values):
    """Every part, in double precision; at unequal rates every part differs, or the comparison would prove nothing."""
    with jax.enable_x64(True):
        t = jnp.array([1e-3, 0.2, 0.7, 1.0])
        size = len(t)
        z = jax.random.randint(jax.random.key(0), (size, 3), 0, values, jnp.int32)
        x0 = jax.random.randint(jax.random.key(1), (size, 3), 0, values, jnp.int32)
        output = jax.random.normal(jax.random.key(2), (size, 3, values))

        @jax.jit
        def parts(process):
            log_p = process.log_probabilities(output, z, t)
            bridges = [process.bridge_logits(log_p, z, t, s) for s in (0.4 * t, 0.0 * t)]
            costs = process.rate(x0, log_p, t, z), process.reconstruction(x0, t), process.prior_kl(x0)
            return [process.evidence(z, t), *bridges, *costs, process.loss(output, z, x0, t, x0 > 0)]

        rates = lambda: np.full((values, values), 0.3)
        uniform = parts(Discrete.uniform(values, schedule=Unfinished()))
        for mine, his in zip(parts(Ordinal(rates=rates(), schedule=Unfinished())), uniform, strict=True):
            np.testing.assert_allclose(mine, his, rtol=1e-10, atol=1e-11)
        if values > 2:
            unequal = parts(make(0.4, values, schedule=Unfinished()))
            same = [np.allclose(mine, his, rtol=1e-2) for mine, his in zip(unequal, uniform, strict=True)]
            assert same == [False, False, True, False, False, False, False]  # at s = 0 both draw from p itself


def test_kernels_are_matrix_exponentials():
    """Of any symmetric rates: rows of sum 1, detailed balance, one after the other; exact at both ends."""
    rates = np.random.default_rng(0).gamma(0.3, size=(6, 6))
    process = Ordinal(rates=rates + rates.T)
    with jax.enable_x64(True):
        kernel = jax.jit(lambda keep, lost: process.jumps.matrix((keep[None], lost[None])))
        at = lambda t: np.asarray(kernel(jnp.asarray(1 - t), jnp.asarray(t)))
        for t in (1e-9, 1e-3, 0.3, 0.9, 0.999):
            np.testing.assert_allclose(at(t), expm(-np.log1p(-t) * generator(process)), rtol=1e-9, atol=1e-15)
            np.testing.assert_allclose(at(t).sum(1), 1, rtol=1e-13)
            np.testing.assert_allclose(at(t), at(t).T, rtol=1e-12)
        np.testing.assert_allclose(at(0.3) @ at(0.5), at(1 - 0.7 * 0.5), rtol=1e-12)
        z = jnp.arange(6, dtype=jnp.int32)[:, None]
        np.testing.assert_allclose(process.evidence(z, 0.3)[:, 0], at(0.3), rtol=1e-12)
        np.testing.assert_array_equal(at(0.0), np.eye(6))
        np.testing.assert_array_equal(at(1.0), np.full((6, 6), 1 / 6))


@pytest.mark.parametrize(("values", "beta"), [(16, 1.0), (256, 0.05)])
def test_single_precision_keeps_the_digits_of_neighbours(values, beta):
    """Beside the diagonal the error is of eps min(1, u), u = -mu_max log alpha; the plain sum of modes is negative."""
    process = make(beta, values)
    eps, beside = np.finfo(np.float32).eps, ~np.eye(values, dtype=bool)
    kernel = jax.jit(lambda t: process.jumps.matrix((1 - t[None], t[None])))
    for t in np.float32([1e-6, 1e-3, 0.3, 0.9]):
        tau = -np.log1p(-np.float64(t))
        q, exact = np.asarray(kernel(t)), expm(tau * generator(process))
        assert q.dtype == np.float32
        allowed = 3 * eps * min(1, tau * process.jumps.speeds[-1])
        assert abs(q - exact)[beside].max() < allowed
        assert abs(q.sum(1) - 1).max() < 5e-6 and q.min() > 0
        near = np.eye(values, k=1, dtype=bool)
        np.testing.assert_allclose(q[near], exact[near], rtol=5e-6)
    modes, speeds = np.float32(process.jumps.modes), np.float32(process.jumps.speeds)
    plain = np.float32(1 / values) + modes * np.float32(1 - 1e-4) ** speeds @ modes.T
    assert plain.min() < -1e-9


def test_noise_goes_to_neighbours_first():
    """At small t jumps are in proportion to the rates, and a level's noise is near it; equal rates know no near."""
    process, t = make(1.0, 16), 1e-4
    q = np.asarray(process.evidence(jnp.full((1, 1), 8, jnp.int32), t))[0, 0]
    jumps = np.delete(q, 8) / (1 - q[8])
    distance = abs(np.delete(np.arange(16), 8) - 8)
    assert jumps[distance == 1].sum() > 0.9 and jumps[distance > 2].sum() < 1e-3
    np.testing.assert_allclose(q[10] / q[9], np.exp(-3.0), rtol=0.05)
    uniform = np.asarray(Discrete.uniform(16).evidence(jnp.full((1, 1), 8, jnp.int32), t))[0, 0]
    assert jumps @ distance < 1.1 and np.delete(uniform, 8) / (1 - uniform[8]) @ distance > 4


def test_the_bridge_is_the_mean_of_bayes_rule():
    """Against sum_k p(k) q_ts(z | j) q_s(j | k) / q_t(z | k) with matrix exponentials; p itself at s = 0."""
    process, t, s = make(), 0.7, 0.3
    with jax.enable_x64(True):
        z = jnp.arange(K, dtype=jnp.int32)[:, None]
        log_p = jax.nn.log_softmax(jax.random.normal(jax.random.key(0), (K, 1, K)))
        logits_of = jax.jit(process.bridge_logits)
        logits = logits_of(log_p, z, t, s)
        kernel = lambda ratio: expm(-np.log(ratio) * generator(process))
        onward, at_s, at_t = kernel((1 - t) / (1 - s)), kernel(1 - s), kernel(1 - t)
        expected = onward * (np.exp(np.asarray(log_p))[:, 0] / at_t @ at_s)
        np.testing.assert_allclose(jnp.exp(logits)[:, 0], expected, rtol=1e-11)
        np.testing.assert_allclose(logits_of(log_p, z, t, 0.0), log_p, rtol=1e-12)
        each = logits_of(log_p, z, jnp.full((K, 1), t), jnp.full((K,), s))
        np.testing.assert_allclose(each, logits, rtol=1e-12)


def plug_in(process, log_probs, z, t, s):
    """The bridge of the mean prediction, which is wrong."""
    (a, _), (c, d) = process.schedule(t), process.schedule(s)
    onward, q_s = process.jumps.matrix(((a / c)[None], (1 - a / c)[None])), process.jumps.matrix((c[None], d[None]))
    weights = onward[z] * (jnp.exp(log_probs) @ q_s)
    return jnp.log(weights / weights.sum(-1, keepdims=True))


def total_variation(steps, bridge=None):
    """Between the data and what `steps` reverse steps of exact posteriors sample, by matrices over all sequences."""
    process, data, z = make(), law(), sequences()
    bridge = process.bridge_logits if bridge is None else functools.partial(bridge, process)
    reach = np.full(K**L, 1 / K**L)

    @jax.jit
    def matrix(t, s):
        tokens = jnp.exp(bridge(process.log_probabilities(data.denoise(z, process, t), z, t), z, t, s))
        return jnp.einsum("zi,zj->zij", tokens[:, 0], tokens[:, 1]).reshape(K**L, -1)

    for t, s in itertools.pairwise(np.linspace(1, 0, steps + 1)):
        reach = reach @ np.asarray(matrix(t, s))
    assert abs(reach.sum() - 1) < 1e-10
    return 0.5 * np.abs(reach - data.probabilities.reshape(-1)).sum()


def test_ancestral_steps_converge_to_the_data_and_the_bridge_of_the_mean_does_not():
    with jax.enable_x64(True):
        errors = [total_variation(steps) for steps in (16, 32, 64)]
        slopes = np.log2(np.divide(errors[:-1], errors[1:]))
        assert errors[-1] < 0.01 and (abs(slopes - 1) < 0.1).all(), (errors, slopes)
        wrong = [total_variation(steps, plug_in) for steps in (32, 64)]
        assert min(wrong) > 0.1 and abs(wrong[1] / wrong[0] - 1) < 0.05, wrong


def test_the_bound_is_tight_for_each_sequence():
    """Exact posteriors: the integral of the mean rate is -log p(x0), for each x0."""
    process, data = make(), law()
    with jax.enable_x64(True):
        z = x0 = sequences()
        nodes, weights = np.polynomial.legendre.leggauss(120)
        u, weights = 0.5 * (nodes + 1), 0.5 * weights
        times, weights = u**6, weights * 6 * u**5  # the integrand has t log t at the data

        @jax.jit
        def mean_rate(t):
            log_probs = data.denoise(z, process, t)
            rates = jax.vmap(lambda x: process.rate(jnp.broadcast_to(x, z.shape), log_probs, t, z))(x0)
            q = process.evidence(z, t)
            return (q[:, 0][:, x0[:, 0]].T * q[:, 1][:, x0[:, 1]].T * rates).sum(1)

        bound = weights @ np.asarray(jax.lax.map(mean_rate, jnp.asarray(times)))
        bound += np.asarray(process.reconstruction(x0, 0.0) + process.prior_kl(x0))
        np.testing.assert_allclose(bound, -np.asarray(data.log_prob(x0)), atol=1e-8)


def test_the_estimated_bound_is_that_of_the_law():
    """In single precision, from 1e-3 on; another law of the data has a looser bound on average."""
    process, data = make(), law()
    x0 = jnp.repeat(sequences(), 100, 0)
    elbo = jax.jit(likelihood.elbo, static_argnames="draws")
    bound = np.asarray(elbo(jax.random.key(0), process, data.denoiser(process), x0, draws=64))
    bound, exact = bound.reshape(-1, 100), np.asarray(data.log_prob(sequences()))
    error = bound.std(1) / 10
    assert error.max() < 0.2
    assert (abs(bound.mean(1) - exact) < 4.5 * error + 8e-3).all()
    flat = oracles.EnumeratedTokens(probabilities=np.full((K, K), 1 / K**L))
    p = data.probabilities.reshape(-1)
    loose = np.asarray(elbo(jax.random.key(0), process, flat.denoiser(process), x0, draws=64)).reshape(-1, 100)
    assert abs(p @ loose.mean(1) + L * np.log(K)) < 0.03 and p @ (bound - loose).mean(1) > 0.1


def test_sample_draws_from_the_law_of_its_steps():
    """The whole sampler, also with one token known; one compilation serves other rates."""
    data, size, traces = law(), 20_000, []
    spec, grid = jax.ShapeDtypeStruct((size, L), jnp.int32), jnp.linspace(1, 0, 33)
    value = jnp.stack([jnp.arange(size) % K, jnp.full(size, -7)], 1).astype(jnp.int32)  # -7: never read

    @jax.jit
    def run(process, mask):
        traces.append(1)
        denoise = process.denoiser(data.denoiser(process), observed=(mask, value))
        x, info = sample(jax.random.key(0), process, denoise, solvers.Ancestral(), grid, spec=spec)
        return x, info.nfe

    nobody, first = jnp.array([[False, False]]), jnp.array([[True, False]])
    for beta in (0.4, 2.0):
        x, nfe = run(make(beta), nobody)
        assert x.dtype == jnp.int32 and int(nfe) == 32
        counts = np.zeros((K, K))
        np.add.at(counts, tuple(np.asarray(x).T), 1 / size)
        assert 0.5 * np.abs(counts - data.probabilities).sum() < 0.035
    x, _ = run(make(), first)
    np.testing.assert_array_equal(x[:, 0], value[:, 0])
    for k in range(K):
        rest = np.bincount(np.asarray(x[k::K, 1]), minlength=K) / len(x[k::K])
        np.testing.assert_allclose(rest, data.probabilities[k] / data.probabilities[k].sum(), atol=0.04)
    assert len(traces) == 1


def test_noise_upon_noise_is_noise():
    """Frequencies by a lattice of quantiles; the data are left alone at t = 0, and times may belong to tokens."""
    process, size = make(), 20_000
    corrupt, forward = jax.jit(process.corrupt), jax.jit(process.forward)
    u = norm.ppf((np.arange(size) + 0.5) / size).astype(np.float32)
    supplied, first = jnp.asarray(u)[None, :, None], jnp.ones((size, 1), jnp.int32)
    frequencies = lambda z: np.bincount(np.asarray(z)[:, 0], minlength=K) / size
    kernel = lambda ratio: expm(-np.log(ratio) * generator(process))
    z, target = corrupt(supplied, first, 0.6)
    np.testing.assert_array_equal(target, first)
    np.testing.assert_allclose(frequencies(z), kernel(0.4)[1], atol=2e-4)
    np.testing.assert_allclose(frequencies(forward(supplied, first, 0.2, 0.6)), kernel(0.5)[1], atol=2e-4)
    np.testing.assert_array_equal(forward(supplied, first, 0.5, 0.5), first)
    keys, x0 = noise.sample_keys(jax.random.key(0), 500), jnp.tile(jnp.arange(4, dtype=jnp.int32), (500, 1))
    z, _ = corrupt(keys, x0, jnp.array([0.0, 0.0, 0.9, 0.9])[None])
    np.testing.assert_array_equal(z[:, :2], x0[:, :2])
    assert (z[:, 2:] != x0[:, 2:]).mean() > 0.4


def test_losses_and_gradients_are_finite_at_both_ends():
    """float32; 32 levels, most of them out of reach, and logits of 60 either way."""
    values, t = 32, jnp.repeat(jnp.array([0.0, 1e-6, 0.5, 1.0]), 32)
    process, x0 = make(1.0, values), jnp.tile(jnp.arange(32, dtype=jnp.int32), 4)[:, None]
    z, _ = jax.jit(process.corrupt)(noise.sample_keys(jax.random.key(0), len(x0)), x0, t)
    output = 60 * jax.random.normal(jax.random.key(1), (len(x0), 1, values))

    @jax.jit
    def run(output, t):
        costs, back = jax.vjp(lambda output, t: process.loss(output, z, x0, t), output, t)
        return costs, back(jnp.ones_like(costs))

    costs, grads = jax.tree.map(np.asarray, run(output, t))
    assert np.isfinite(costs).all() and all(np.isfinite(grad).all() for grad in grads)
    assert (costs >= -1e-6).all() and (costs[:32] == 0).all()


def test_training_lowers_the_loss():
    """The ELBO's integrand with a small network of both tokens; cross-entropy is another loss."""
    data, width = law(), 32

    def apply(params, z, t, cond=None, *, key=None):
        clock = jnp.broadcast_to(jnp.asarray(t), z.shape[:1])[:, None]
        x = jnp.concatenate([jax.nn.one_hot(z, K).reshape(len(z), -1), clock, jnp.log(clock)], 1)
        hidden = jax.nn.tanh(x @ params["in"] + params["bias"])
        return (hidden @ params["out"]).reshape(len(z), L, K)

    draw = np.random.default_rng(0).normal
    params = {
        "in": 0.3 * draw(size=(L * K + 2, width)),
        "bias": np.zeros(width),
        "out": 0.1 * draw(size=(width, L * K)),
    }
    params = jax.tree.map(jnp.float32, params)
    batch = {"x0": jax.jit(data.sample, static_argnums=1)(jax.random.key(1), 512)}
    process, optimizer = make(), optax.adam(0.02)
    step = jax.jit(make_step(process, apply, optimizer))
    state, losses = TrainState.create(params, optimizer), []
    for _ in range(120):
        state, metrics = step(state, jax.random.key(2), batch)
        losses.append(float(metrics["loss"]))
    assert np.isfinite(losses).all() and np.mean(losses[-20:]) < 0.6 * np.mean(losses[:5]), losses
    z, output = batch["x0"], jnp.zeros((512, L, K))
    plain = make(cross_entropy=True).loss(output, z, z, 0.5)
    np.testing.assert_allclose(plain, np.log(K), rtol=1e-6)
    assert abs(process.loss(output, z, z, 0.5) - plain).min() > 1e-3


def test_bad_arguments_say_what_to_do():
    keys, x, process = noise.sample_keys(jax.random.key(0), 2), jnp.zeros((2, 3), jnp.int32), make()
    with pytest.raises(ValueError, match=r"alpha \+ sigma must be 1; Cosine.*RectifiedFlow"):
        make(schedule=schedules.Cosine())
    for rates in (np.array([[0.0, 1.0], [2.0, 0.0]]), -np.ones((2, 2)), np.full((2, 2), np.nan)):
        with pytest.raises(ValueError, match="finite, not negative and symmetric"):
            Ordinal(rates=rates)
    for rates in (np.ones((2, 3)), np.ones((1, 1))):
        with pytest.raises(ValueError, match=r"shape \(K, K\), K > 1"):
            Ordinal(rates=rates)
    with pytest.raises(ValueError, match=r"must join all states.*a smaller beta"):
        Ordinal(rates=np.kron(np.eye(2), np.ones((2, 2))))
    with pytest.raises(ValueError, match=r"outside jax\.jit"):
        jax.jit(lambda rates: Ordinal(rates=rates).prior_kl(x))(np.ones((3, 3)))
    for beta in (-1.0, np.inf):
        with pytest.raises(ValueError, match="beta must be a finite number >= 0"):
            make(beta)
    for wrong in (x - 1, x + K):
        with pytest.raises(ValueError, match=r"must lie in \[0, 4\)"):
            process.corrupt(keys, wrong, 0.5)
    with pytest.raises(ValueError, match="dtype int32, got float32"):
        process.prior(keys, jax.ShapeDtypeStruct((2, 3), jnp.float32))
    with pytest.raises(ValueError, match="one logit for each of the 4 values"):
        process.denoiser(lambda z, t, cond: jnp.zeros((*z.shape, K + 1)))(x, 0.5)
    with pytest.raises(ValueError, match="to a later t"):
        process.forward(keys, x, 0.5, 0.2)
    other = dataclasses.replace(process, rates=np.ones((3, 3)))
    assert other.tokens == 3 and other.jumps.modes.shape == (3, 2)
