"""Block diffusion against enumerated laws, its two reductions, its clock, its cache, and its bound."""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import Discrete, Gaussian, grids, likelihood, noise, oracles, sample, schedules, solvers
from jaxdiff.processes import CachedDenoiser
from jaxdiff.types import expand, pytree, static

K, L = 3, 4
PROCESS, IDLE = Gaussian(schedule=schedules.Cosine()), jax.tree_util.Partial(lambda x, t: x)
draw = jax.jit(sample, static_argnames=("spec", "record"))


def table():
    return np.random.default_rng(3).dirichlet(np.full(K**L, 0.4)).reshape([K] * L)


def sequences():
    return jnp.array(list(itertools.product(range(K), repeat=L)), jnp.int32)


def process_of(kind):
    """A mask, or uniform noise beside a mask that never comes: one program serves both."""
    return Discrete(pi=jnp.array({"mask": [0, 0, 0, 1], "uniform": [1 / 3, 1 / 3, 1 / 3, 0]}[kind], float), tokens=K)


def chi_square(x, law):
    """Pearson's statistic of counts, less its mean, in standard deviations."""
    counts = np.zeros(law.shape)
    np.add.at(counts, tuple(np.asarray(x).T), 1)
    expected = law * len(x)
    kept = expected > 2
    value, freedom = ((counts - expected)[kept] ** 2 / expected[kept]).sum(), kept.sum() - 1
    return (value - freedom) / np.sqrt(2 * freedom)


@pytree
class Probe:
    """A solver whose state is its last step."""

    order = 1

    def nfe(self, grid):
        return jnp.sum(grid[1:] != grid[:-1])

    def init(self, process, x, grid):
        return jnp.full(2, 7, grid.dtype)

    def step(self, keys, process, denoise, x, t, s, state):
        return x, jnp.stack([t, s])


@pytest.mark.parametrize("blocks", [2, 3, 1000, 4096])
def test_the_clock_of_a_block_is_exact_at_its_ends(blocks):
    """Whatever made the global grid: 1 and 0 at the ends of blocks, and between them what one float leaves."""
    own = jnp.array([1, 0.71, 0.3, 0.01, 0])
    n, solver = len(own) - 1, solvers.BlockDiffusion(inner=Probe(), block=1)
    equal = grids.uniform(schedules.RectifiedFlow(), blocks * n)
    eager = grids.blockwise(own, blocks)
    assert eager[0] == 1 and eager[-1] == 0 and eager.shape == (blocks * n + 1,)
    ends = np.arange(blocks, -1, -1, dtype=np.float32) / np.float32(blocks)
    np.testing.assert_allclose(eager[::n], ends, rtol=2e-7)
    for grid, times in (
        (eager, own),
        (jax.jit(grids.blockwise, static_argnums=1)(own, blocks), own),
        (equal, np.linspace(1, 0, n + 1)),
        (jnp.linspace(1, 0, blocks * n + 1), np.linspace(1, 0, n + 1)),
    ):
        _, info = draw(jax.random.key(0), PROCESS, IDLE, solver, grid, x=jnp.zeros((1, blocks)), record=last_step)
        steps = np.asarray(info.records).reshape(blocks, n, 2)
        assert (steps[:, 0, 0] == 1).all() and (steps[:, -1, 1] == 0).all()
        assert (steps[:, 1:, 0] == steps[:, :-1, 1]).all()
        np.testing.assert_allclose(steps[:, :, 1], np.broadcast_to(times[1:], (blocks, n)), atol=3e-7 * blocks)
        assert info.nfe == blocks * n


def last_step(x, s, state):
    return state.inner


def test_times_closer_than_rounding_are_no_steps():
    own = jnp.array([1, 1 - 1e-6, 0.5, 1e-6, 0])
    grid = grids.blockwise(own, 4096)
    assert (jnp.diff(grid) <= 0).all() and (grid[::4] * 4096 == jnp.arange(4096, -1, -1)).all()
    solver = solvers.BlockDiffusion(inner=Probe(), block=1)
    _, info = draw(jax.random.key(0), PROCESS, IDLE, solver, grid, x=jnp.zeros((1, 4096)), record=last_step)
    calls = int(info.nfe)
    assert 2 * 4096 <= calls < 4 * 4096
    moved = np.asarray(info.records).reshape(4096, 4, 2)
    assert (moved[:, -1, 1] == 0).all() and (moved[:, 1, 1] == 0.5).all()


@pytest.mark.parametrize("kind", ["mask", "uniform"])
def test_blocks_of_one_token_are_autoregression(kind):
    """One step a token draws from p(x_i | x_<i): the data's law, by counting, and not that of four tokens at once."""
    process = process_of(kind)
    law, size = oracles.EnumeratedTokens(probabilities=table()), 40_000
    spec, one = jax.ShapeDtypeStruct((size, L), jnp.int32), jnp.array([1.0, 0.0])

    def run(block):
        solver = solvers.BlockDiffusion(inner=solvers.Ancestral(), block=block)
        grid = grids.blockwise(one, L // block)
        x, info = draw(jax.random.key(1), process, law.denoiser(process), solver, grid, spec=spec)
        assert int(info.nfe) == L // block
        return chi_square(x, table())

    assert abs(run(1)) < 4
    assert run(L) > 100


@pytree
class OneByOne:
    """Draws the token that its state counts: exact, if the state is begun anew with each block."""

    order = 1

    def nfe(self, grid):
        return jnp.sum(grid[1:] != grid[:-1])

    def init(self, process, x, grid):
        return jnp.zeros((), jnp.int32)

    def step(self, keys, process, denoise, x, t, s, state):
        drawn = noise.categorical(keys, denoise(x, t))
        return jnp.where(jnp.arange(x.shape[1]) == state, drawn, x), state + 1


def test_blocks_of_two_tokens_sample_the_law():
    """Tokens that are drawn one after the other within a block: exact in law, where two at once are not."""
    process, law = process_of("mask"), oracles.EnumeratedTokens(probabilities=table())
    spec = jax.ShapeDtypeStruct((40_000, L), jnp.int32)

    def run(inner, own, calls):
        solver, grid = solvers.BlockDiffusion(inner=inner, block=2), grids.blockwise(jnp.array(own), 2)
        x, info = draw(jax.random.key(1), process, law.denoiser(process), solver, grid, spec=spec)
        assert int(info.nfe) == calls
        return chi_square(x, table())

    uniform_order = solvers.Confidence(randomness=jnp.inf)
    assert abs(run(OneByOne(), [1, 0.5, 0], 4)) < 4
    assert abs(run(solvers.FirstHitting(), [1.0, 0], 4)) < 4
    assert abs(run(uniform_order, [1, 0.5, 0], 4)) < 4
    assert run(uniform_order, [1.0, 0, 0], 2) > 100


@pytest.mark.parametrize("kind", ["mask", "uniform"])
def test_one_block_is_the_inner_solver_to_the_bit(kind):
    """With keys, and with noise that the caller supplies."""
    process = process_of(kind)
    denoise = oracles.EnumeratedTokens(probabilities=table()).denoiser(process)
    inner, grid, spec = solvers.Ancestral(), jnp.linspace(1, 0, 7), jax.ShapeDtypeStruct((500, L), jnp.int32)
    blocks = solvers.BlockDiffusion(inner=inner, block=L)
    supplied = jax.random.normal(jax.random.key(2), (6, 2, 500, L))
    for given in (None, supplied):
        runs = [draw(jax.random.key(0), process, denoise, s, grid, spec=spec, noise=given) for s in (inner, blocks)]
        np.testing.assert_array_equal(runs[0][0], runs[1][0])
        assert int(runs[0][1].nfe) == int(runs[1][1].nfe) == 6


def test_continuous_data_and_solvers_with_history():
    """Independent elements: each block is what the inner solver makes of it alone, its history begun anew."""
    process = Gaussian(schedule=schedules.Cosine())

    def denoise(x, t, cond=None):
        alpha, sigma = process.schedule(t)
        # Of N(0.3, 0.5^2).
        return 0.3 + expand(alpha * 0.25 / (alpha**2 * 0.25 + sigma**2), x) * (x - 0.3 * expand(alpha, x))

    denoise, inner, own = jax.tree_util.Partial(denoise), solvers.DPMpp2M(), jnp.linspace(1, 0, 6)
    x = jax.random.normal(jax.random.key(0), (3, 6, 2))
    solver = solvers.BlockDiffusion(inner=inner, block=2)
    whole, info = draw(jax.random.key(0), process, denoise, solver, grids.blockwise(own, 3), x=x)
    parts = [draw(jax.random.key(0), process, denoise, inner, own, x=x[:, i : i + 2])[0] for i in (0, 2, 4)]
    np.testing.assert_allclose(whole, jnp.concatenate(parts, 1), atol=2e-4)
    assert int(info.nfe) == 15
    assert abs(whole - x).max() > 0.1


@pytree
class GivenThePast:
    """The exact denoiser of each block given the clean tokens before it: what a network with cond = x0 learns."""

    law: Any
    process: Any
    x0: Any
    block: int = static()
    past: bool = static(default=True)

    def __call__(self, z, t, cond=None):
        position = jnp.arange(L)
        rows = []
        for start in range(0, L, self.block):
            before, behind = position < start, position >= start + self.block
            known = jnp.where(before, self.x0, z) if self.past else jnp.where(before, K, z)
            clock = jnp.broadcast_to(expand(jnp.asarray(t), z), z.shape)
            clock = jnp.where(before, 0.0 if self.past else 1.0, jnp.where(behind, 1.0, clock))
            rows.append(self.law.denoise(jnp.where(behind, K, known), self.process, clock)[:, start:][:, : self.block])
        return jnp.concatenate(rows, 1)


def block_entropy_gap(block):
    """What independent blocks lose: -E of the sum over blocks of log p(block), less the entropy."""
    p = table()
    part = lambda i: np.log(p.sum(tuple(a for a in range(L) if not i <= a < i + block)))
    return (p * np.log(p)).sum() - sum((np.exp(part(i)) * part(i)).sum() for i in range(0, L, block))


@pytest.mark.parametrize("block", [1, 2, 4])
def test_the_bound_is_the_likelihood_given_the_past(block):
    """The mean rate over all masks, integrated: log p(x0) of each sequence, for autoregression and for plain masks."""
    with jax.enable_x64(True):
        process = Discrete.masked(K)
        law = oracles.EnumeratedTokens(probabilities=table())
        x0 = sequences()
        masked = jnp.array(list(itertools.product([False, True], repeat=L)))
        nodes, weights = np.polynomial.legendre.leggauss(12)

        @jax.jit
        def mean_rate(t):
            def of(hidden):
                z = jnp.where(hidden, K, x0)
                q = jnp.prod(jnp.where(hidden, t, 1 - t))
                exact, alone = (
                    GivenThePast(law=law, process=process, x0=x0, block=block, past=p) for p in (True, False)
                )
                return q * jnp.stack([process.rate(x0, d(z, t), t, z) for d in (exact, alone)])

            return jax.lax.map(of, masked).sum(0)

        bound, alone = np.asarray(
            jnp.tensordot(jnp.asarray(weights / 2), jax.lax.map(mean_rate, jnp.asarray((nodes + 1) / 2)), 1)
        )
        exact = -np.asarray(law.log_prob(x0))
    np.testing.assert_allclose(bound, exact, atol=1e-8)
    loss = table().reshape(-1) @ (alone - exact)
    np.testing.assert_allclose(loss, block_entropy_gap(block), atol=1e-8)
    assert loss > 0.2 if block < L else abs(loss) < 1e-8


def test_elbo_needs_nothing_new():
    """`likelihood.elbo` of a denoiser with the clean past is log p(x0) in the mean; one without loses."""
    process, law = Discrete.masked(K), oracles.EnumeratedTokens(probabilities=table())
    x0 = law.sample(jax.random.key(1), 5000)
    elbo = jax.jit(likelihood.elbo, static_argnames="draws")

    def excess(block, past=True):
        denoise = GivenThePast(law=law, process=process, x0=x0, block=block, past=past)
        error = law.log_prob(x0) - elbo(jax.random.key(0), process, denoise, x0, t_min=1e-3, draws=32)
        return float(error.mean()), 4 * float(error.std()) / np.sqrt(len(x0)) + 5e-3

    alone, error = excess(2, past=False)
    assert abs(alone - block_entropy_gap(2)) < error
    mean, error = excess(2)
    assert abs(mean) < error < alone / 3


# A network whose tokens see their block and the mean of the blocks before it: its cache is a sum.


def features(params, z, t):
    """(B, b, D); t a prefix of z's shape."""
    return params["embed"][z] + jnp.sin(3.0 * expand(jnp.asarray(t), z))[..., None] * params["time"]


def head(params, h, own, past):
    return jnp.tanh(h + own @ params["own"] + past @ params["past"]) @ params["out"]


class Functions(NamedTuple):
    """The cached form."""

    block_length: int

    def empty(self, params, batch):
        return jnp.zeros((batch, params["embed"].shape[1])), jnp.zeros((), jnp.int32)

    def block(self, params, z, t, start, cache):
        h = features(params, z, t)
        past = cache[0] / jnp.maximum(start, 1)
        return head(params, h, h.mean(1, keepdims=True), past[:, None])

    def extend(self, params, x, start, cache):
        return cache[0] + features(params, x, 0.0).sum(1), cache[1] + 1


def whole(block, params, z, t, cond):
    """The same network on the whole sequence."""
    h = features(params, z, jnp.broadcast_to(t, z.shape))
    blocks = h.reshape(h.shape[0], -1, block, h.shape[-1])
    before = jnp.cumsum(blocks.sum(2), 1) - blocks.sum(2)
    past = before / jnp.maximum(jnp.arange(blocks.shape[1]) * block, 1)[:, None]
    return head(params, blocks, blocks.mean(2, keepdims=True), past[:, :, None]).reshape(*z.shape, -1)


def toy(key, block):
    k = jax.random.split(key, 5)
    shapes = {"embed": (K + 1, 6), "time": (6,), "own": (6, 6), "past": (6, 6), "out": (6, K)}
    params = {name: 1.5 * jax.random.normal(k[i], shape) for i, (name, shape) in enumerate(shapes.items())}
    return params, Functions(block), jax.tree_util.Partial(whole, block)


@pytest.mark.parametrize("kind", ["mask", "uniform"])
@pytest.mark.parametrize("prompt", [False, True])
def test_a_cache_gives_the_samples_of_the_whole_sequence(kind, prompt):
    """Also with known tokens, which come back to the bit and go into the cache."""
    process = process_of(kind)
    block, size, length, n = 2, 64, 8, 3
    params, functions, network = toy(jax.random.key(0), block)
    observed = None
    if prompt:
        value = jax.random.randint(jax.random.key(5), (size, length), 0, K)
        mask = jnp.array([[True, True, False, True, False, False, False, True]])
        observed = mask, value
    plain = process.denoiser(jax.tree_util.Partial(network, params), observed)
    cached = CachedDenoiser(process=process, params=params, functions=functions, observed=observed)
    inner, grid = solvers.Ancestral(), grids.blockwise(jnp.linspace(1, 0, n + 1), length // block)
    spec = jax.ShapeDtypeStruct((size, length), jnp.int32)
    solver = solvers.BlockDiffusion(inner=inner, block=block)
    expected, _ = draw(jax.random.key(1), process, plain, solver, grid, spec=spec)
    solver = solvers.BlockDiffusion(inner=inner, block=block, start=cached.empty)
    x, info = draw(jax.random.key(1), process, cached, solver, grid, spec=spec, record=extensions)
    np.testing.assert_array_equal(x, expected)
    assert (x < K).all() and int(info.nfe) == n * length // block
    np.testing.assert_array_equal(info.records, np.repeat(np.arange(length // block), n))
    if observed is not None:
        np.testing.assert_array_equal(jnp.where(mask, x, 0), jnp.where(mask, value, 0))
        unknown = CachedDenoiser(process=process, params=params, functions=functions, observed=(mask & False, value))
        free, _ = draw(jax.random.key(1), process, unknown, solver, grid, spec=spec, record=extensions)
        assert ((free != x) & ~mask).any()


def extensions(x, s, state):
    return state.cache[1]


def test_a_prompt_of_whole_blocks_needs_no_steps():
    """A grid that begins at the end of its blocks; the cache learns them first. A wrong prompt gives other tokens."""
    process, block, size, length, n = Discrete.masked(K), 2, 64, 8, 3
    params, functions, network = toy(jax.random.key(0), block)
    prompt = jax.random.randint(jax.random.key(5), (size, 4), 0, K)
    start = lambda prompt: jnp.concatenate([prompt, jnp.full((size, 4), K, jnp.int32)], 1)
    grid = grids.blockwise(jnp.linspace(1, 0, n + 1), length // block)[2 * n :]
    cached = CachedDenoiser(process=process, params=params, functions=functions)
    solver = solvers.BlockDiffusion(inner=solvers.Ancestral(), block=block, start=cached.empty)
    run = lambda denoise, solver, x: draw(jax.random.key(1), process, denoise, solver, grid, x=x)
    x, info = run(cached, solver, start(prompt))
    plain = process.denoiser(jax.tree_util.Partial(network, params))
    expected, _ = run(plain, solvers.BlockDiffusion(inner=solvers.Ancestral(), block=block), start(prompt))
    np.testing.assert_array_equal(x, expected)
    np.testing.assert_array_equal(x[:, :4], prompt)
    assert int(info.nfe) == 2 * n and (x < K).all()
    other, _ = run(cached, solver, start((prompt + 1) % K))
    assert (other != x)[:, 4:].any()


def test_one_compilation():
    """For other keys, parameters, prompts, and grids of one length, padded ones too."""
    process, block = Discrete.masked(K), 2
    traces = []

    @jax.jit
    def run(key, denoise, solver, grid):
        traces.append(1)
        return sample(key, process, denoise, solver, grid, spec=jax.ShapeDtypeStruct((4, 8), jnp.int32))

    for seed, own in enumerate((jnp.array([1, 0.5, 0.2, 0]), jnp.array([1, 0.3, 0.0, 0.0]))):
        params, functions, _ = toy(jax.random.key(seed), block)
        observed = jnp.ones((4, 8), bool).at[:, seed:].set(False), jnp.full((4, 8), seed)
        denoise = CachedDenoiser(process=process, params=params, functions=functions, observed=observed)
        solver = solvers.BlockDiffusion(inner=solvers.Ancestral(), block=block, start=denoise.empty)
        x, info = run(jax.random.key(seed), denoise, solver, grids.blockwise(own, 4))
        assert int(info.nfe) == 4 * (3 - seed) and (x < K).all()
    assert len(traces) == 1


def test_bad_input_is_refused_with_what_to_do():
    process = Discrete.masked(K)
    params, functions, network = toy(jax.random.key(0), 2)
    plain = process.denoiser(jax.tree_util.Partial(network, params))
    cached = CachedDenoiser(process=process, params=params, functions=functions)
    run = lambda grid, denoise=plain, block=2, start=None: sample(
        *(jax.random.key(0), process, denoise),
        solvers.BlockDiffusion(inner=solvers.Ancestral(), block=block, start=start),
        *(jnp.asarray(grid),),
        spec=jax.ShapeDtypeStruct((2, 8), jnp.int32),
    )
    good = grids.blockwise(jnp.array([1.0, 0.0]), 4)
    for message, call in {
        "must divide the second axis": lambda: run(good, block=3),
        r"from 0.8 to 0.6; grids.blockwise\(times, 4\)": lambda: run([1, 0.8, 0.6, 0.5, 0.25, 0]),
        "must go down": lambda: run(good[::-1]),
        "start=denoise.empty": lambda: run(good, denoise=cached),
        "another denoiser start=None": lambda: run(good, start=cached.empty),
        "at least 1 element": lambda: solvers.BlockDiffusion(inner=solvers.Ancestral(), block=0),
        "one block at a time": lambda: cached(jnp.zeros((2, 8), jnp.int32), 1.0),
        "at least 1 block": lambda: grids.blockwise(jnp.array([1.0, 0.0]), 0),
        "must go from 1 to 0": lambda: grids.blockwise(jnp.array([0.9, 0.0]), 2),
        "steps >= 1": lambda: grids.blockwise(jnp.array([1.0]), 2),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()
    assert jnp.isnan(jax.jit(grids.blockwise, static_argnums=1)(jnp.array([0.9, 0.0]), 2)).all()
