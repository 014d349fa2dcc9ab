"""Block diffusion against enumerated laws, its two reductions, its clock, and its bound."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import Discrete, Gaussian, grids, likelihood, noise, oracles, sample, schedules, solvers
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
