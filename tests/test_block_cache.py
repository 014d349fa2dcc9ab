"""Block diffusion of a network with a cache, what is compiled, and what is refused.

The network's tokens see their block and the mean of the blocks before it: its cache is a sum.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import Discrete, grids, sample, solvers
from jaxdiff.processes import CachedDenoiser
from jaxdiff.types import expand

K = 3
PI = {"mask": [0, 0, 0, 1], "uniform": [1 / 3, 1 / 3, 1 / 3, 0]}  # the latter beside a mask that never comes
draw = jax.jit(sample, static_argnames=("spec", "record"))


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
    process = Discrete(pi=jnp.array(PI[kind], float), tokens=K)
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
