"""Solvers of masked tokens: their laws by counting against a table, their reductions, and what they must not do."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2
from test_discrete import total_variation
from token_laws import TABLE, K, L, setting

from jaxdiff import Discrete, Gaussian, oracles, sample, schedules, solvers

SIZE = 20_000
KEY = jax.random.key(0)
INFINITE = float("inf")
sampler = functools.partial(jax.jit, static_argnames=("spec", "trajectory"))(sample)


def surprise(x, law):
    """Pearson's statistic of tokens (B, L) under the law of all sequences, in units of its bound: wrong above 1."""
    counts = np.zeros(law.shape)
    np.add.at(counts, tuple(np.asarray(x).T), 1)
    expected = law * len(x)
    assert (counts[law == 0] == 0).all()
    used = law > 0
    statistic = ((counts - expected)[used] ** 2 / expected[used]).sum()
    return statistic / chi2.ppf(1 - 1e-5, max(used.sum() - 1, 1))


def draw(solver, times, law=None, observed=None, size=SIZE, **options):
    process, table = setting("mask")
    law = oracles.EnumeratedTokens(probabilities=np.array(law)) if law is not None else table
    denoise = law.denoiser(process)
    denoise = denoise if observed is None else process.denoiser(denoise, observed=observed)
    spec = jax.ShapeDtypeStruct((size, law.probabilities.ndim), jnp.int32)
    return sampler(KEY, process, denoise, solver, jnp.asarray(times, jnp.float32), spec=spec, **options)


def flat_network(values):
    """Logits that depend on the whole sequence and on the position, unlike one another."""

    def network(z, t, cond=None):
        shift = jnp.sin(1.0 + z.sum(-1, keepdims=True) + 2.3 * jnp.arange(z.shape[-1]))
        return jnp.sin(3.0 * shift[..., None] * jnp.arange(1, values + 1)) * 2

    return network


# --- first hitting


def test_first_hitting_has_the_law_of_the_data_on_every_grid():
    """And so that of many ancestral steps, where few have another."""
    padded = [(1, 0, 0, 0), (1, 0.9, 0.3, 0)]
    draws = [draw(solvers.FirstHitting(), times) for times in padded]
    assert max(surprise(x, TABLE) for x, _ in draws) < 1
    assert int(draws[0][1].nfe) == L
    assert surprise(draw(solvers.Ancestral(), np.linspace(1, 0, 65))[0], TABLE) < 1
    assert surprise(draw(solvers.Ancestral(), np.linspace(1, 0, 5))[0], TABLE) > 10


def test_first_hitting_has_the_law_of_noisy_tokens_on_the_way():
    """q(z_s) over tokens and masks, at the end of two intervals; on another schedule with the same sigma too."""
    plain, law = setting("mask")
    stay = np.append(0.6 * np.eye(K), np.full((K, 1), 0.4), 1)
    expected = np.einsum("ab,ai,bj->ij", TABLE, stay, stay)
    shifted = Discrete.masked(K, schedule=schedules.Shifted(base=schedules.RectifiedFlow(), shift=3.0))
    for process, times in ((plain, (1, 0.7, 0.4)), (shifted, (1, 0.4375, 2 / 11))):
        np.testing.assert_allclose(process.schedule(jnp.float32(times[2]))[1], 0.4, rtol=1e-6)
        spec, grid = jax.ShapeDtypeStruct((SIZE, L), jnp.int32), jnp.asarray(times, jnp.float32)
        z, _ = sampler(KEY, process, law.denoiser(process), solvers.FirstHitting(), grid, spec=spec)
        assert surprise(z, expected) < 1


def test_first_hitting_calls_once_for_each_mask():
    """Counted where the network runs; each call has a time for each sample, falling, and inside the grid."""
    seen, network = [], flat_network(K)

    def counted(z, t, cond=None):
        jax.debug.callback(lambda t: seen.append(np.array(t)), t, ordered=True)
        return network(z, t)

    process = Discrete.masked(K)
    run = jax.jit(lambda x, grid: sample(KEY, process, process.denoiser(counted), solvers.FirstHitting(), grid, x=x))
    x = jnp.array([[0, K, K, 1, K, K, K, 2]], jnp.int32)
    for grid in (jnp.array([1.0, 0.0, 0.0, 0.0]), jnp.array([0.8, 0.5, 0.1, 0.0])):
        out, info = run(x, grid)
        jax.effects_barrier()
        assert int(info.nfe) == len(seen) == 5 and seen[0].shape == (1,)
        assert (np.diff(np.ravel(seen)) < 0).all() and seen[-1] > 0 and seen[0] <= grid[0]
        assert (out < K).all() and (out == x)[x < K].all()
        seen.clear()
    assert int(run(jnp.zeros((1, 8), jnp.int32), grid)[1].nfe) == 0


# --- confidence


def test_confidence_leaves_as_many_masks_as_sigma_says():
    """Of those present at the start, for any grid; tokens that were there stay; known ones are not counted."""
    process, times = Discrete.masked(K), np.array([0.9, 0.83, 0.5, 0.31, 0.05, 0], np.float32)
    start = jnp.where(jnp.arange(8) < jnp.arange(9)[:, None], K, 1).astype(jnp.int32)
    known = jnp.arange(8)[None] < 3
    value = jnp.full((9, 8), 2, jnp.int32)
    for observed in (None, (known, value)):
        denoise = process.denoiser(flat_network(K), observed=observed)
        run = lambda score: sampler(
            KEY, process, denoise, solvers.Confidence(score=score), times, x=start, trajectory=True
        )
        for score in (solvers.scores.probability, solvers.scores.margin, solvers.scores.entropy):
            x, info = run(score)
            path = np.asarray(info.trajectory)
            total = np.arange(9) if observed is None else np.maximum(np.arange(9) - 3, 0)
            expected = np.round(total * (times[1:] / times[0])[:, None])
            np.testing.assert_array_equal((path[1:] == K).sum(-1), expected)
            assert ((path[1:] == path[:-1]) | (path[:-1] == K)).all() and int(info.nfe) == 5
            if observed is not None:
                assert (path[1:, :, :3][:, np.asarray(start[:, :3]) == K] == 2).all()
            assert (x < K).all()


def test_one_token_a_step_keeps_the_law_unless_the_order_depends_on_the_draw():
    """Exact denoisers: a uniform order, and scores of z alone; the probability of what was drawn is the control."""
    steps = (1, 0.5, 0)
    make = solvers.Confidence
    exact = [make(randomness=INFINITE), make(score=solvers.scores.margin), make(score=solvers.scores.entropy)]
    assert max(surprise(draw(solver, steps)[0], TABLE) for solver in exact) < 1
    assert surprise(draw(make(), steps)[0], TABLE) > 10


def test_a_uniform_order_is_that_of_random_unmasking_with_the_same_counts():
    """Two of three tokens at once, then one: the mean over pairs of p(a) p(b) p(c | a, b), not the table itself."""
    table = np.random.default_rng(0).dirichlet(np.full(8, 0.4)).reshape(2, 2, 2)
    one = [table.sum(tuple(j for j in range(3) if j != i), keepdims=True) for i in range(3)]
    pairs = [one[a] * one[b] * table / table.sum(3 - a - b, keepdims=True) for a, b in ((0, 1), (0, 2), (1, 2))]
    process, law = Discrete.masked(2), oracles.EnumeratedTokens(probabilities=table)
    spec, grid = jax.ShapeDtypeStruct((SIZE, 3), jnp.int32), jnp.array([1, 1 / 3, 0])
    x, _ = sampler(KEY, process, law.denoiser(process), solvers.Confidence(randomness=INFINITE), grid, spec=spec)
    assert surprise(x, np.mean(pairs, 0)) < 1 < surprise(x, table) / 10


def test_without_temperature_it_is_greedy():
    """The likeliest token of all, then the likelier one of the other given it; no key matters."""
    first = max((TABLE.sum(1 - i)[k], i, k) for i in range(L) for k in range(K))
    given = np.moveaxis(TABLE, first[1], 0)[first[2]]
    expected = np.array([first[2], given.argmax()])[:: 1 if first[1] == 0 else -1]
    x, _ = draw(solvers.Confidence(temperature=0.0), (1, 0.5, 0), size=50)
    np.testing.assert_array_equal(x, np.tile(expected, (50, 1)))


def test_temperature_and_top_p_give_their_law_in_one_compilation():
    """One step of one token: p^(1 / temperature), cut; then randomness and the grid too without another trace."""
    p, traces = np.array([0.1, 0.45, 0.25, 0.2]), []
    process = Discrete.masked(4)

    @jax.jit
    def run(solver, grid):
        traces.append(1)
        denoise = process.denoiser(lambda z, t, cond: jnp.broadcast_to(jnp.log(p), (*z.shape, 4)))
        spec = jax.ShapeDtypeStruct((SIZE, 1), jnp.int32)
        return sample(KEY, process, denoise, solver, grid, spec=spec)[0]

    at = lambda temperature, top_p, randomness=0.0: solvers.Confidence(
        temperature=jnp.float32(temperature), top_p=jnp.float32(top_p), randomness=jnp.float32(randomness)
    )
    for temperature, top_p, kept in ((1, 1, p > 0), (0.5, 1, p > 0), (1, 0.6, p > 0.2), (2, 1e-6, p > 0.4)):
        law = np.where(kept, p ** (1 / temperature), 0)
        grid = jnp.array([1.0, 0.0])
        assert surprise(run(at(temperature, top_p), grid), law / law.sum()) < 1
    assert (run(at(0, 1), grid) == 1).all()
    assert (run(at(1, 1, INFINITE), jnp.array([0.7, 0.0])) < 4).all() and len(traces) == 1


def test_scores_are_those_of_their_formulas():
    p = np.random.default_rng(0).dirichlet(np.ones(5), (2, 3))
    drawn = jnp.array([[0, 4, 1], [2, 2, 3]], jnp.int32)
    log_probs, ordered = jnp.log(jnp.asarray(p, jnp.float32)), np.sort(p)
    score = solvers.scores
    expected = np.log(np.take_along_axis(p, np.asarray(drawn)[..., None], -1)[..., 0])
    np.testing.assert_allclose(score.probability(log_probs, drawn), expected, rtol=1e-5)
    np.testing.assert_allclose(score.margin(log_probs, drawn), ordered[..., -1] - ordered[..., -2], rtol=1e-5)
    np.testing.assert_allclose(score.entropy(log_probs, drawn), (p * np.log(p)).sum(-1), rtol=1e-5)
    certain = jnp.array([[[0.0, -1e9, -jnp.inf]]])
    assert [float(f(certain, drawn[:1, :1])[0, 0]) for f in (score.probability, score.margin, score.entropy)] == [
        0,
        1,
        0,
    ]


# --- remasking

KINDS = [solvers.ReMDM(eta=0.3), solvers.ReMDM(eta=0.6, rescale=True), solvers.ReMDM(eta=1.0, rescale=True)]


@pytest.mark.parametrize("solver", [*KINDS, solvers.ReMDM(eta=0.0)], ids=str)
def test_remasking_keeps_the_law_of_noisy_tokens(solver):
    """Rows of the law of a step given x0 lead from q(z_t | x0) to q(z_s | x0), and take back what was asked for."""
    with jax.enable_x64(True):
        process, states = Discrete.masked(K), jnp.arange(K + 1, dtype=jnp.int32)
        z = jnp.tile(states, K)[:, None]  # from each state, for each x0
        certain = jnp.where(jnp.arange(K) == jnp.repeat(jnp.arange(K), K + 1)[:, None], 0.0, -1e9)[:, None]
        at = lambda sigma: np.append((1 - sigma) * np.eye(K), np.full((K, 1), sigma), 1)
        for t, s in ((1.0, 0.7), (0.6, 0.5), (0.5, 0.05), (0.4, 0.0)):
            log_probs = process.log_probabilities(certain, z, t)
            logits = np.asarray(solver.logits(process, log_probs, z, jnp.array(t), jnp.array(s)))
            most = min(1.0, s / (1 - t)) if t < 1 else 1.0
            back = solver.eta * most if solver.rescale else min(solver.eta, most)
            for x0, matrix in enumerate(np.exp(logits).reshape(K, K + 1, K + 1)):
                np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-12)
                np.testing.assert_allclose(at(t)[x0] @ matrix, at(s)[x0], atol=1e-12)
                np.testing.assert_allclose(matrix[:K, K], back, atol=1e-12)


def test_remasking_of_nothing_is_ancestral_to_the_bit():
    draw_few = functools.partial(draw, times=np.linspace(1, 0, 9), size=4000)
    plain = draw_few(solvers.Ancestral())[0]
    for rescale in (False, True):
        np.testing.assert_array_equal(draw_few(solvers.ReMDM(eta=0.0, rescale=rescale))[0], plain)
    assert (draw_few(solvers.ReMDM(eta=0.3))[0] != plain).any()


def test_remasked_samples_converge_to_the_data():
    """Total variation by matrices over all sequences, for both strategies; and samples have the law of their steps."""
    with jax.enable_x64(True):
        of = lambda solver: lambda process, *args: solver.logits(process, *args)
        for solver in KINDS[:2]:
            errors = [total_variation("mask", steps, of(solver)) for steps in (4, 16, 64)]
            assert errors[2] < errors[1] / 2 < errors[0] / 4, errors
        expected = total_variation("mask", 4, of(KINDS[0]))
    counts = np.zeros((K, K))
    np.add.at(counts, tuple(np.asarray(draw(KINDS[0], np.linspace(1, 0, 5))[0]).T), 1 / SIZE)
    assert abs(0.5 * np.abs(counts - TABLE).sum() - expected) < 0.02 < expected / 3


# --- all of them

ALL = {
    "first hitting": solvers.FirstHitting(),
    "confidence": solvers.Confidence(randomness=1.0),
    "remdm": solvers.ReMDM(eta=0.2),
}
EACH = pytest.mark.parametrize("name", ALL)


@EACH
def test_a_sample_does_not_depend_on_its_batch(name):
    process, start = Discrete.masked(K), np.where(np.arange(6) < np.arange(64)[:, None] % 7, K, 1).astype(np.int32)
    denoise = process.denoiser(flat_network(K))

    def run(first, last):
        x = jnp.asarray(start[first:last])
        return sampler(KEY, process, denoise, ALL[name], jnp.array([1, 0.6, 0.2, 0]), x=x, first=first)[0]

    whole = np.asarray(run(0, 64))
    np.testing.assert_array_equal(whole, np.concatenate([run(0, 32), run(32, 64)]))
    assert len(np.unique(whole, axis=0)) > 20 and (whole < K).all()


@EACH
def test_known_tokens_come_back_and_the_other_follows_them(name):
    """x holds masks in their place. What is unknown is one token, whose law every step keeps."""
    mask = jnp.array([[True, False]])
    value = jnp.stack([jnp.arange(SIZE) % K, jnp.full(SIZE, -7)], 1).astype(jnp.int32)  # -7: never read
    x, _ = draw(ALL[name], np.linspace(1, 0, 5), observed=(mask, value))
    np.testing.assert_array_equal(x[:, 0], value[:, 0])
    for k in range(K):
        assert surprise(x[k::K, 1:], TABLE[k] / TABLE[k].sum()) < 1


@EACH
def test_one_trace_serves_any_grid_process_and_numbers(name):
    traces = []

    @jax.jit
    def run(process, solver, grid):
        traces.append(1)
        spec = jax.ShapeDtypeStruct((4, 3), jnp.int32)
        return sample(KEY, process, process.denoiser(flat_network(K)), solver, grid, spec=spec)[0]

    shifted = lambda shift: schedules.Shifted(base=schedules.RectifiedFlow(), shift=shift)
    for number in (0.5, 0.75):
        solver = jax.tree.map(lambda leaf: jnp.float32(number), ALL[name])
        assert (run(Discrete.masked(K, schedule=shifted(4 * number)), solver, jnp.array([1, number, 0])) < K).all()
    assert len(traces) == 1


def test_the_mask_is_the_state_that_pi_names():
    """Behind another state that data cannot have; and supplied normals in place of keys."""
    process, x = Discrete(pi=np.array([0, 0, 0, 0, 1.0]), tokens=K), jnp.full((4, 3), 4, jnp.int32)
    for solver in ALL.values():
        run = lambda **options: sampler(KEY, process, process.denoiser(flat_network(K)), solver, GRID, x=x, **options)
        assert (run()[0] < K).all()
    normals = jax.random.normal(KEY, (2, 2, 4, 3))
    assert (run(noise=normals)[0] < K).all()


GRID = jnp.array([1.0, 0.5, 0.0])


def test_bad_arguments_say_what_to_do():
    masked, x = Discrete.masked(K), jnp.full((2, 3), K, jnp.int32)
    for solver, process in itertools.product(
        ALL.values(), (Discrete.uniform(K), Gaussian(schedule=schedules.Cosine()))
    ):
        with pytest.raises(ValueError, match=r"needs tokens that become masks, got \w+ without a mask"):
            solver.init(process, x, GRID)
    for solver in ALL.values():
        with pytest.raises(ValueError, match=r"sends 0\.6 of them there; use"):
            solver.init(Discrete.masked(K, uniform=0.4), x, GRID)
    with pytest.raises(ValueError, match=r"read it from sample's info\.nfe"):
        solvers.FirstHitting().nfe(GRID)
    with pytest.raises(ValueError, match="pass keys, not an array"):
        sample(KEY, masked, flat_network(K), solvers.FirstHitting(), GRID, x=x, noise=jnp.zeros((2, 3, 2, 3)))
    for wrong in ({"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}, {"randomness": -0.1}):
        with pytest.raises(ValueError, match=r"temperature >= 0, top_p in \(0, 1\] and randomness >= 0"):
            solvers.Confidence(**wrong)
    with pytest.raises(ValueError, match=r"from 0 to 1, got 1\.5"):
        solvers.ReMDM(eta=1.5)
    with pytest.raises(
        ValueError, match=r"got data of dtype int32; tokens have one reverse law, that of Ancestral\(\)"
    ):
        sample(KEY, masked, flat_network(K), solvers.Ancestral(large=True), GRID, x=x)
