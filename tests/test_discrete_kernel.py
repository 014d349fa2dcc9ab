"""The parts of the discrete process: kernels, bridges, losses, observed tokens, draws and messages."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import norm
from token_laws import CASES, TABLE, K, L, setting

from jaxdiff import Discrete, TrainState, make_step, noise, oracles, sample, schedules, solvers


@pytest.mark.parametrize("name", ["mask", "uniform", "hybrid"])
def test_the_bridge_is_the_mean_of_bayes_rule(name):
    """Against sum_k p(k) q(z | j) q(j | k) / q(z | k), term by term; the law p itself at s = 0."""
    (process, _), t, s = setting(name), 0.7, 0.3
    states = len(process.pi)
    with jax.enable_x64(True):
        z = jnp.arange(states, dtype=jnp.int32)[:, None]
        log_p = process.log_probabilities(jax.random.normal(jax.random.key(0), (states, 1, K)), z, t)
        law = jnp.exp(process.bridge_logits(log_p, z, t, s))[:, 0]
        pi, identity = np.asarray(process.pi), np.eye(states)
        step = lambda keep: keep * identity + (1 - keep) * pi  # from state (row) to state
        p = np.exp(np.asarray(log_p))[:, 0]
        for i in range(states):
            expected = np.zeros(states)
            for k in np.flatnonzero(p[i]):
                expected += p[i, k] * step((1 - t) / (1 - s))[:, i] * step(1 - s)[k] / step(1 - t)[k, i]
            np.testing.assert_allclose(law[i], expected, atol=1e-12)
        np.testing.assert_array_equal(process.bridge_logits(log_p, z, t, 0.0)[..., :K], jax.nn.log_softmax(log_p))


def test_noise_upon_noise_is_noise():
    """q(z_t | z_s) after q(z_s | x0) is q(z_t | x0), state by state: a lattice of quantiles makes frequencies exact."""
    process = Discrete(pi=np.array([0.2, 0.5, 0.3]))
    u = norm.ppf((np.arange(10) + 0.5) / 10).astype(np.float32)
    supplied = jnp.asarray(np.stack([a.reshape(-1, 1) for a in np.meshgrid(u, u)]))
    frequencies = lambda z: np.bincount(np.asarray(z)[:, 0], minlength=3) / z.shape[0]
    first = jnp.stack([jnp.full((100, 1), k, jnp.int32) for k in range(3)])
    law = lambda draw: np.stack([frequencies(draw(x)) for x in first])
    at_s = law(lambda x: process.corrupt(supplied, x, 0.2)[0])
    onward = law(lambda x: process.forward(supplied, x, 0.2, 0.6))
    np.testing.assert_allclose(at_s, 0.8 * np.eye(3) + 0.2 * process.pi, atol=1e-6)
    np.testing.assert_allclose(at_s @ onward, 0.4 * np.eye(3) + 0.6 * process.pi, atol=1e-6)
    np.testing.assert_array_equal(process.forward(supplied, first[1], 0.5, 0.5), first[1])


def test_masks_never_come_off_data_and_data_never_change():
    process, law = setting("mask")
    x0 = law.sample(jax.random.key(0), 1000)
    z, target = process.corrupt(noise.sample_keys(jax.random.key(1), 1000), x0, 0.6)
    np.testing.assert_array_equal(target, x0)
    assert (np.asarray(z == K) | np.asarray(z == x0)).all() and abs((z == K).mean() - 0.6) < 0.05
    log_probs = process.log_probabilities(jnp.zeros((*z.shape, K)), z, 0.6)
    np.testing.assert_array_equal(jnp.exp(log_probs)[z < K], jax.nn.one_hot(x0, K)[z < K])
    np.testing.assert_allclose(jnp.exp(log_probs)[z == K], 1 / K, rtol=1e-6)


@CASES
def test_observed_tokens_come_back_and_the_others_follow_their_law(name):
    """The first token is known: the second has the law of the table's row, and the network's clock stands still."""
    process, law = setting(name)
    size = 20_000
    mask = jnp.array([[True, False]])
    value = jnp.stack([jnp.arange(size) % K, jnp.full(size, -7)], 1).astype(jnp.int32)  # -7: never read
    denoise = process.denoiser(law.denoiser(process), observed=(mask, value))
    spec, grid = jax.ShapeDtypeStruct((size, L), jnp.int32), jnp.linspace(1, 0, 65)
    x, _ = sample(jax.random.key(0), process, denoise, solvers.Ancestral(), grid, spec=spec)
    np.testing.assert_array_equal(x[:, 0], value[:, 0])
    for k in range(K):
        law = np.bincount(np.asarray(x[k::K, 1]), minlength=K) / len(x[k::K])
        np.testing.assert_allclose(law, TABLE[k] / TABLE[k].sum(), atol=0.03)


def test_the_noise_of_a_sample_does_not_depend_on_the_batch():
    process, law = setting("hybrid")
    grid = jnp.linspace(1, 0, 6)

    def run(size, first):
        spec = jax.ShapeDtypeStruct((size, L), jnp.int32)
        denoise = law.denoiser(process)
        return sample(jax.random.key(3), process, denoise, solvers.Ancestral(), grid, spec=spec, first=first)[0]

    whole = np.asarray(run(64, 0))
    np.testing.assert_array_equal(whole, np.concatenate([run(24, 0), run(40, 24)]))
    assert len(np.unique(whole, axis=0)) > 4


def test_one_trace_serves_any_law_of_the_noise_and_any_grid():
    traces, law = [], setting("mask")[1]

    @jax.jit
    def run(process, grid):
        traces.append(1)
        spec = jax.ShapeDtypeStruct((8, L), jnp.int32)
        return sample(jax.random.key(0), process, law.denoiser(process), solvers.Ancestral(), grid, spec=spec)[0]

    for share in (0.0, 0.5, 1.0):
        run(Discrete.masked(K, uniform=share), jnp.linspace(1, share / 8, 5))
    assert len(traces) == 1


@CASES
def test_losses_and_gradients_are_finite_at_both_ends(name):
    """float32; logits of 60 have probabilities whose product with anything is lost."""
    process, _ = setting(name)
    x0 = jnp.tile(jnp.arange(K, dtype=jnp.int32), 4)[:, None]
    t = jnp.repeat(jnp.array([0.0, 1e-6, 0.5, 1.0]), K)
    z, _ = process.corrupt(noise.sample_keys(jax.random.key(0), 4 * K), x0, t)
    output = jnp.tile(jnp.array([60.0, -60.0, 0.0]), (4 * K, 1, 1))
    loss, grad = jax.value_and_grad(lambda output: process.loss(output, z, x0, t).sum())(output)
    assert np.isfinite(loss) and np.isfinite(grad).all() and float(loss) >= 0
    assert (process.loss(output, z, x0, t)[:K] == 0).all()


def test_the_integrand_of_a_mask_is_a_weighted_cross_entropy():
    process, law = setting("mask")
    plain = Discrete.masked(K, cross_entropy=True)
    x0 = law.sample(jax.random.key(0), 200)
    output, t = 30 * jax.random.normal(jax.random.key(1), (200, L, K)), jnp.linspace(0.05, 1, 200)
    z, _ = process.corrupt(noise.sample_keys(jax.random.key(2), 200), x0, t)
    np.testing.assert_allclose(process.loss(output, z, x0, t), plain.loss(output, z, x0, t) / t, rtol=1e-5, atol=1e-4)
    where = jnp.arange(L) == 0
    one = plain.loss(output, z, x0, t, where[None])
    np.testing.assert_allclose(one, plain.loss(output[:, :1], z[:, :1], x0[:, :1], t), rtol=1e-6)


@pytest.mark.parametrize("name", ["mask", "uniform", "hybrid"])
def test_training_learns_the_law_of_a_token(name):
    """One token, a table of logits: the loss leads to its frequencies, and observed tokens do not count."""
    (process, _), frequencies = setting(name), np.array([0.6, 0.3, 0.1])
    apply = lambda params, z, t, cond, key=None: (
        jnp.broadcast_to(params, (*z.shape, K))
        + jnp.where((z == K)[..., None], 0.0, jnp.log(process.evidence(jnp.minimum(z, K - 1), t)))
    )
    step = jax.jit(make_step(process, apply, optax.adam(0.05), ema=0.98))
    state = TrainState.create(jnp.zeros(K), optax.adam(0.05))
    x0 = jnp.asarray(np.repeat(np.arange(K), (1000 * frequencies).astype(int))[:, None], jnp.int32)
    batch = {"x0": jnp.concatenate([x0, 0 * x0], 1), "observed": jnp.array([[False, True]] * 1000)}
    for _ in range(200):
        state, metrics = step(state, jax.random.key(0), batch)
    assert np.isfinite(metrics["loss"])
    np.testing.assert_allclose(jax.nn.softmax(state.ema), frequencies, atol=0.03)


def test_bad_arguments_say_what_to_do():
    keys, x = noise.sample_keys(jax.random.key(0), 2), jnp.zeros((2, 3), jnp.int32)
    process, _ = setting("mask")
    with pytest.raises(ValueError, match=r"alpha \+ sigma must be 1; Cosine.*RectifiedFlow"):
        Discrete.masked(K, schedule=schedules.Cosine())
    with pytest.raises(ValueError, match="got a class"):
        Discrete.masked(K, schedule=schedules.RectifiedFlow)
    for pi in (np.array([0.5, 0.6]), np.array([1.2, -0.2])):
        with pytest.raises(ValueError, match="no negative entry and the sum 1"):
            Discrete(pi=pi)
    with pytest.raises(ValueError, match=r"shape \(V,\)"):
        Discrete(pi=np.eye(2))
    with pytest.raises(ValueError, match="tokens must lie in"):
        Discrete(pi=np.full(3, 1 / 3), tokens=4)
    for wrong in (x - 1, x + K):
        with pytest.raises(ValueError, match=r"must lie in \[0, 3\)"):
            process.corrupt(keys, wrong, 0.5)
        with pytest.raises(ValueError, match=r"must lie in \[0, 3\)"):
            process.denoiser(lambda z, t, cond: z, observed=(jnp.arange(3)[None] == 1, wrong))
    with pytest.raises(ValueError, match="dtype int32, got uint8"):
        process.corrupt(keys, x.astype(jnp.uint8), 0.5)
    with pytest.raises(ValueError, match="dtype int32, got float32"):
        process.prior(keys, jax.ShapeDtypeStruct((2, 3), jnp.float32))
    with pytest.raises(ValueError, match="a mask gets none"):
        process.denoiser(lambda z, t, cond: jnp.zeros((*z.shape, K + 1)))(x, 0.5)
    with pytest.raises(ValueError, match="to a later t"):
        process.forward(keys, x, 0.5, 0.2)
    with pytest.raises(ValueError, match="belongs to real numbers"):
        noise.normal(keys, jax.ShapeDtypeStruct((2, 3), jnp.int32))
    for table in (np.full((2, 3), 1 / 6), np.full((2, 2), 0.3)):
        with pytest.raises(ValueError, match="probabilities must have"):
            oracles.EnumeratedTokens(probabilities=table)


def test_draws_have_their_probabilities():
    """Keys and supplied normals; a tail that plain float32 Gumbel noise would thin out needs no large sample here."""
    p = np.array([0.5, 0.0, 0.3, 0.2])
    with np.errstate(divide="ignore"):
        logits = jnp.broadcast_to(jnp.log(jnp.asarray(p, jnp.float32)), (100_000, 4))
    u = norm.ppf((np.arange(100_000) + 0.5) / 100_000).astype(np.float32)
    for source in (noise.sample_keys(jax.random.key(0), 100_000), jnp.asarray(u)[None]):
        draws = noise.categorical(source, logits)
        np.testing.assert_allclose(np.bincount(draws, minlength=4) / 100_000, p, atol=0.006)
        assert draws.dtype == jnp.int32 and not (draws == 1).any()
    assert int(noise.quantile(jnp.array([0.0, 1.0, 0.0]), noise.uniform(jnp.full((1, 1), 40.0), (1,)))[0]) == 1
