"""The transformer of sequences: what every network promises, who sees whom, and its cache of keys and values."""

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdiff import Discrete, grids, noise, sample, solvers
from jaxdiff.networks import DiT, Transformer, cached, functional
from jaxdiff.networks.masks import two_streams
from jaxdiff.networks.positions import rotary_1d
from jaxdiff.processes import CachedDenoiser

# These tests compile much and compute little.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
K, L, B = 5, 8, 3
NEAR = {"rtol": 0, "atol": 1e-5}
KINDS = {
    "time": {"tokens": K},
    "no time": {"tokens": K, "time": False},
    "classes": {"tokens": K, "num_classes": 3, "dropout": 0.5},
    "classes, no time": {"tokens": K, "time": False, "num_classes": 3},
    "vectors": {},
    "blocks": {"tokens": K, "block": 2},
    "blocks, no time": {"tokens": K, "block": 2, "time": False},
}
each = pytest.mark.parametrize("kind", KINDS)
timed = pytest.mark.parametrize("time", [True, False], ids=["time", "no time"])


def maker(**options):
    shape = (L,) if "tokens" in options else (L, 2)
    options = dict[str, Any](width=16, depth=2, heads=2, mlp_ratio=2) | options
    return lambda rngs: Transformer(shape, **options, rngs=rngs)


@cache
def build(**options):
    init, apply = functional(maker(**options))
    return init, jit(apply), apply


@cache
def perturbed(**options):
    """Parameters away from the zeros that make a fresh network constant (drawn in numpy: nothing to compile).

    Outputs are of order one, so that bounds of differences mean something.
    """
    draw = np.random.default_rng(0)
    params = jax.eval_shape(build(**options)[0], jax.random.key(0))
    scale = lambda path, a: 1.0 if "table" in path else a.shape[0] ** -0.5 if a.ndim > 1 else 0.3
    draw_one = lambda path, a: draw.normal(0, scale(jax.tree_util.keystr(path), a), a.shape).astype(np.float32)
    return jax.tree.map(jnp.asarray, jax.tree_util.tree_map_with_path(draw_one, params))


def clean():
    return jnp.asarray(np.random.default_rng(1).integers(0, K, (B, L)), jnp.int32)


def masked():
    hidden = np.random.default_rng(2).random((B, L)) < 0.5
    return jnp.asarray(np.where(hidden, K, np.asarray(clean())), jnp.int32)


def inputs(kind):
    """(x, t, cond) of a kind of network."""
    options = KINDS[kind]
    x = masked() if "tokens" in options else jnp.asarray(np.random.default_rng(3).normal(size=(B, L, 2)), jnp.float32)
    cond = jnp.array([0, 2, 3]) if "num_classes" in options else clean() if "block" in options else None
    return x, jnp.array([0.2, 0.5, 0.9]), cond


@each
def test_every_kind_keeps_the_contract_of_networks(kind):
    """Plain float32 parameters, and a float32 output, of bfloat16 too, that depends on the time or not."""
    options = KINDS[kind] | {"depth": 1}
    x, t, cond = inputs(kind)
    params = jax.eval_shape(build(**options)[0], jax.random.key(0))
    shape = (B, L, K if "tokens" in options else 2)

    def walk(tree):
        assert type(tree) is dict
        for name, child in tree.items():
            assert type(name) is str
            if not hasattr(child, "dtype"):
                walk(child)

    walk(params)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    assert ("time" in params.get("embedding", {})) == options.get("time", True)
    exact = build(**options)[1](perturbed(**options), x, t, cond)
    rough = build(**options, dtype=jnp.bfloat16)[1](perturbed(**options), x, t, cond)
    assert exact.shape == rough.shape == shape and exact.dtype == rough.dtype == jnp.float32
    scale = float(jnp.abs(exact).max())
    assert 0 < float(jnp.abs(exact - rough).max()) < 0.1 * scale
    late = build(**options)[1](perturbed(**options), x, t / 2, cond)
    assert (float(jnp.abs(late - exact).max()) > 1e-3 * scale) == options.get("time", True)


@pytest.mark.parametrize("kind", ["blocks", "classes, no time", "no time", "vectors"])
def test_the_fresh_output_is_zero(kind):
    init, apply, _ = build(**KINDS[kind], depth=1)
    assert not apply(init(jax.random.key(0)), *inputs(kind)).any()


@each
def test_gradient_reaches_every_parameter_and_remat_leaves_it_alone(kind):
    x, t, cond = inputs(kind)
    keys = noise.sample_keys(jax.random.key(7), B)

    def grad(**options):
        apply = build(**KINDS[kind], depth=1, **options)[2]
        loss = lambda p: jnp.square(apply(p, x, t, cond, key=keys) - 1).mean()
        return jit(jax.grad(loss))(perturbed(**KINDS[kind], depth=1))

    plain = grad()
    for path, leaf in jax.tree.leaves_with_path(plain):
        assert jnp.isfinite(leaf).all() and leaf.any(), jax.tree_util.keystr(path)
    if kind in ("classes", "blocks, no time"):
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), grad(remat=True), plain)


@pytest.mark.parametrize("kind", ["classes", "blocks"])
def test_a_clock_for_each_place(kind):
    """Equal to the time of the example where its places agree, and another where they do not."""
    near = partial(np.testing.assert_allclose, rtol=0, atol=5e-5)  # features of 1000 t round differently
    _, apply, _ = build(**KINDS[kind], depth=1)
    x, t, cond = inputs(kind)
    call = partial(apply, perturbed(**KINDS[kind], depth=1), x, cond=cond)
    whole = call(t=t)
    near(call(t=jnp.broadcast_to(t[:, None], (B, L))), whole)
    near(call(t=jnp.full((1, L), 0.3)), call(t=0.3))
    if kind == "blocks":
        near(call(t=t[:, None]), whole)
    known = call(t=jnp.broadcast_to(t[:, None], (B, L)).at[0, 1].set(0.0))
    assert jnp.abs(known - whole)[0].max() > 1e-3
    near(known[1:], whole[1:])


@pytest.mark.parametrize("kind", ["classes", "classes, no time"])
def test_labels(kind):
    _, apply, _ = build(**KINDS[kind], depth=1)
    x, t, _ = inputs(kind)
    call = partial(apply, perturbed(**KINDS[kind], depth=1), x, t)
    null = call()
    labelled = call(jnp.array([0, 2, 3]))
    np.testing.assert_allclose(labelled[2], null[2], **NEAR)
    assert (jnp.abs(labelled - null)[:2].max((1, 2)) > 1e-3).all()
    outside = call(jnp.array([0, 4, -1]))
    assert jnp.isnan(outside[1:]).all() and jnp.isfinite(outside[0]).all()


def test_tokens_that_the_table_does_not_have_give_nan():
    _, apply, _ = build(**KINDS["time"], depth=1)
    for wrong in (-1, K + 1):
        output = apply(perturbed(**KINDS["time"], depth=1), masked().at[1, 3].set(wrong), 0.5)
        assert jnp.isnan(output[1]).all() and jnp.isfinite(output[::2]).all()


def test_dropout_belongs_to_the_example():
    _, apply, _ = build(**KINDS["classes"], depth=1)
    x, keys = jnp.tile(masked()[:1], (B, 1)), noise.sample_keys(jax.random.key(7), B)
    call = partial(apply, perturbed(**KINDS["classes"], depth=1))
    full, one = call(x, 0.5, key=keys), call(x[1:2], 0.5, key=keys[1:2])
    np.testing.assert_allclose(full[1:2], one, **NEAR)
    assert jnp.abs(full[0] - full[1]).max() > 1e-3 and jnp.abs(full[0] - call(x, 0.5)[0]).max() > 1e-3


def test_positions_see_differences_alone():
    """Turned by their places, q and k have a product that depends on the distance; places may be far and traced."""
    q, k = np.random.default_rng(4).normal(size=(2, 8))
    turn = lambda x, at: (
        np.asarray(x[:4] + 1j * x[4:]) * np.exp(1j * np.float64(jit(rotary_1d, static_argnums=1)(at, 8)))
    )
    places = jnp.arange(3000)
    products = (turn(q, places).conj() * turn(k, places + 3)).real.sum(1)
    np.testing.assert_allclose(products, products[0], atol=2e-3)
    assert np.ptp((turn(q, places).conj() * turn(k, places * 0)).real.sum(1)) > 0.1
    assert rotary_1d(places, 8)[1, 0] == 1 and rotary_1d(places, 8).shape == (3000, 4)


def test_full_attention_is_equivariant_but_for_positions():
    """One token moved changes what others say; with one token everywhere all places say the same."""
    _, apply, _ = build(**KINDS["no time"], depth=1)
    call = partial(apply, perturbed(**KINDS["no time"], depth=1))
    constant = call(jnp.full((B, L), 2), 0.5)
    np.testing.assert_allclose(constant, jnp.broadcast_to(constant[:, :1], constant.shape), **NEAR)
    x = masked()
    assert jnp.abs(call(x[:, ::-1], 0.5)[:, ::-1] - call(x, 0.5)).max() > 1e-3


def changed(x, other):
    """(L + 1, L): the first sequence of x, and the same with place j taken from `other`, for each j."""
    x, other = np.asarray(x)[0], np.asarray(other)[0]
    return jnp.asarray(np.concatenate([x[None], np.where(np.eye(L, dtype=bool), other, x)]), jnp.int32)


def seen(outputs):
    """(L, L): whether output i differs where input j did, of what `changed` made."""
    outputs = np.asarray(outputs)
    return (np.abs(outputs[1:] - outputs[0]).max(-1) > 1e-6).T


@pytest.mark.parametrize(("block", "time"), [(1, True), (1, False), (2, True), (4, False), (8, True)])
def test_who_sees_whom_and_both_forms_agree(block, time):
    """Of [noisy; clean]: own block noisy, earlier ones clean, and the same logits as from one sequence."""
    options = {"tokens": K, "block": block, "time": time}
    apply = partial(build(**options)[1], perturbed(**options))
    places = np.arange(L) // block
    own, earlier = places[:, None] == places, places[:, None] > places
    z, x0 = np.tile(masked()[:1], (L + 1, 1)), np.tile(clean()[:1], (L + 1, 1))
    noisy, other = changed(z, (z + 1) % (K + 1)), changed(x0, (x0 + 1) % K)
    np.testing.assert_array_equal(seen(both := apply(noisy, 0.4, jnp.asarray(x0))), own)
    np.testing.assert_array_equal(seen(apply(jnp.asarray(z), 0.4, other)), earlier)
    clock = lambda t: jnp.asarray(np.broadcast_to(t, (1, L)), jnp.float32)
    np.testing.assert_array_equal(seen(apply(noisy, clock(0.4))), own | earlier)
    for j in range(L // block):
        now, mixed = places == j, jnp.asarray(np.where(places < j, x0, noisy))
        alone = apply(mixed, clock(np.where(places < j, 0.0, 0.4)))
        np.testing.assert_allclose(np.asarray(alone)[:, now], np.asarray(both)[:, now], **NEAR)
        if j:  # negative control: the clock of clean places counts, if there is one
            late = apply(mixed, clock(0.4))
            assert (np.abs(np.asarray(late - both)[:, now]).max() > 1e-3) == time


def test_blocks_of_one_are_autoregressive():
    """From masks, the logits of a place have no derivative in its own clean vector nor in later ones."""
    _, _, apply = build(block=1)
    params = perturbed(block=1)
    x0 = jnp.asarray(np.random.default_rng(5).normal(size=(1, L, 2)), jnp.float32)
    slopes = jit(jax.jacrev(lambda x: apply(params, jnp.zeros_like(x0), 1.0, x)))(x0)
    size = jnp.abs(slopes).max((0, 2, 3, 5))
    assert (size[jnp.triu_indices(L)] == 0).all() and (size[jnp.tril_indices(L, -1)] > 0).all()


def test_the_mask_of_two_streams_by_hand():
    expected = ["10 00", "01 10", "00 10", "00 11"]
    np.testing.assert_array_equal(two_streams(2, 1), [[c == "1" for c in row.replace(" ", "")] for row in expected])


def steps(block, time, dtype=jnp.float32):
    """Logits of all blocks from the cache, in one scan that extends it, and the calls that were traced."""
    options = {"tokens": K, "block": block, "time": time}
    functions, traces = cached(maker(**options, dtype=dtype)), []

    @jit
    def run(params, z, x0, t):
        def body(memory, j):
            traces.append(1)
            cut = lambda a: jax.lax.dynamic_slice_in_dim(a, j * block, block, 1)
            logits = functions.block(params, cut(z), t, j * block, memory)
            return functions.extend(params, cut(x0), j * block, memory), logits

        memory, logits = jax.lax.scan(body, functions.empty(params, B), jnp.arange(L // block))
        return logits.swapaxes(0, 1).reshape(B, L, K), memory

    return run, functions, perturbed(**options), traces


@pytest.mark.parametrize("block", [1, 4])
@timed
def test_the_cache_gives_the_same_logits(block, time):
    run, functions, params, traces = steps(block, time)
    _, apply, _ = build(tokens=K, block=block, time=time)
    logits, memory = run(params, masked(), clean(), 0.4)
    np.testing.assert_allclose(logits, apply(params, masked(), 0.4, clean()), **NEAR)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), memory) == (((((B, L, 2, 8), jnp.float32),) * 2),) * 2
    late, _ = run(params, masked(), clean(), 0.9)
    np.testing.assert_allclose(late, apply(params, masked(), 0.9, clean()), **NEAR)
    assert len(traces) == 1  # one program for all blocks and times
    prompt = jit(functions.extend)(params, clean(), 0, functions.empty(params, B))
    jax.tree.map(partial(np.testing.assert_allclose, **NEAR), prompt, memory)


def test_a_prompt_clocks_and_what_lies_behind():
    _, functions, params, _ = steps(2, True)
    _, apply, _ = build(tokens=K, block=2, time=True)
    block, extend = jit(functions.block), jit(functions.extend)
    stale = jax.tree.map(lambda a: a + 9.0, functions.empty(params, B))  # the cache behind `start` is not seen
    memory = extend(params, clean()[:, :4], 0, stale)
    clock = jnp.asarray(np.random.default_rng(6).random((B, 2)), jnp.float32)
    z = masked()
    full = apply(params, z, jnp.concatenate([jnp.zeros((B, 4)), clock, jnp.ones((B, 2))], 1), clean())
    np.testing.assert_allclose(block(params, z[:, 4:6], clock, 4, memory), full[:, 4:6], **NEAR)
    assert jnp.abs(block(params, z[:, 4:6], clock, 4, stale) - full[:, 4:6]).max() > 1e-3
    for wrong in (-2, 3, 8):
        assert jnp.isnan(block(params, z[:, 4:6], clock, wrong, memory)).all()


def test_the_cache_of_a_bfloat16_network_is_bfloat16():
    run, _, params, _ = steps(4, True, jnp.bfloat16)
    logits, memory = jax.eval_shape(run, params, masked(), clean(), 0.4)
    assert logits.dtype == jnp.float32 and all(a.dtype == jnp.bfloat16 for a in jax.tree.leaves(memory))


def test_block_diffusion_samples_the_same_tokens_with_and_without_the_cache():
    process = Discrete.masked(K)
    options = {"tokens": K, "block": 2, "depth": 1}
    apply, functions, params = build(**options)[2], cached(maker(**options)), perturbed(**options)
    whole = process.denoiser(jax.tree_util.Partial(apply, params))
    denoise = CachedDenoiser(process=process, params=params, functions=functions)
    grid, spec = grids.blockwise(jnp.linspace(1, 0, 4), L // 2), jax.ShapeDtypeStruct((B, L), jnp.int32)
    draw = jit(sample, static_argnames=("spec",))
    run = lambda denoise, start: draw(
        jax.random.key(1), process, denoise, solvers.BlockDiffusion(inner=solvers.Ancestral(), block=2, start=start),
        grid, spec=spec,
    )[0]  # fmt: skip
    x = run(denoise, denoise.empty)
    np.testing.assert_array_equal(x, run(whole, None))
    assert (x < K).all() and len(np.unique(x)) > 1


def test_features_steer_every_place_and_zeros_are_none():
    options = {"tokens": K, "time": False, "features": 3}
    apply, params = build(**options)[2], perturbed(**options)
    z = masked()
    call = jit(lambda features: apply(params, z, 0.5, features))
    about = jax.random.normal(jax.random.key(3), (B, L, 3))
    one = call(about)
    np.testing.assert_allclose(call(jnp.zeros((B, L, 3))), apply(params, z, 0.5), atol=1e-6)
    other = call(about.at[:, 2].add(1.0))
    assert (abs(other - one).max(-1) > 1e-6).all()  # attention carries what is known of one place to all
    with pytest.raises(ValueError, match=r"floating features of shape \(\d, 8, 3\)"):
        call(about[..., :2])


def test_refusals_name_what_was_needed():
    make = lambda shape=(L,), **options: functional(
        lambda rngs: Transformer(shape, **(dict[str, Any](width=16, depth=1, heads=2) | options), rngs=rngs)
    )
    for message, shape, options in [
        (r"\(L,\) with tokens=K", (L,), {}),
        (r"\(L,\) with tokens=K", (L, 2), {"tokens": K}),
        ("vectors have none", (L, 2), {"states": 6}),
        ("at least tokens", (L,), {"tokens": K, "states": K - 1}),
        ("leave it out", (L,), {"tokens": K, "out_channels": 3}),
        ("times an even number", (L,), {"tokens": K, "heads": 16}),
        ("divide the 8 places", (L,), {"tokens": K, "block": 3}),
        ("cond is one of", (L,), {"tokens": K, "block": 2, "num_classes": 2}),
        ("cond is one of", (L,), {"tokens": K, "features": 3, "num_classes": 2}),
        (r"probability in \[0, 1\)", (L,), {"tokens": K, "dropout": 1.0}),
    ]:
        with pytest.raises(ValueError, match=message):
            make(shape, **options)
    params, z = perturbed(**KINDS["blocks"]), masked()
    call = lambda *args, kind="blocks", **kwargs: jax.eval_shape(
        lambda: build(**KINDS[kind])[2](perturbed(**KINDS[kind]), *args, **kwargs)
    )
    with pytest.raises(ValueError, match=r"integer tokens in \[0, 6\) with shape \(B, 8\), got float32"):
        call(z * 1.0, 0.5)
    with pytest.raises(ValueError, match=r"floating with shape \(B, 8, 2\)"):
        call(z, 0.5, kind="vectors")
    with pytest.raises(ValueError, match="t must be a float time"):
        call(z, jnp.ones((B, L - 1)))
    with pytest.raises(ValueError, match="cond must be the clean sequences"):
        call(z, 0.5, jnp.zeros(B, jnp.int32))
    with pytest.raises(ValueError, match="needs a network with classes"):
        call(z, 0.5, clean(), kind="time")
    with pytest.raises(ValueError, match="second time"):
        call(z, 0.5, s=0.1)
    with pytest.raises(ValueError, match="key must be typed keys"):
        call(z, 0.5, key=jax.random.split(jax.random.key(0), 2))
    with pytest.raises(ValueError, match="a transformer of blocks, got Transformer with block=None"):
        cached(maker(tokens=K))
    with pytest.raises(ValueError, match="got DiT with block=None"):
        cached(lambda rngs: DiT((4, 4, 1), width=16, depth=1, heads=2, rngs=rngs))
    functions = cached(maker(**KINDS["blocks"]))
    memory = functions.empty(params, B)
    with pytest.raises(ValueError, match="z must be one block of 2 places"):
        functions.block(params, z[:, :4], 0.5, 0, memory)
    with pytest.raises(ValueError, match="whole blocks of 2"):
        functions.extend(params, z[:, :3], 0, memory)
    for start in (1, -2, 6):
        with pytest.raises(ValueError, match=r"a multiple of 2 in \[0, 4\]"):
            functions.extend(params, z[:, :4], start, memory)


def test_states_vectors_and_channels():
    """Output sizes follow the data; states may be those of the data alone (uniform noise) or more."""
    table = lambda **options: jax.eval_shape(build(**options)[0], jax.random.key(0))["stem"]["table"].shape
    assert table(tokens=K) == (K + 1, 16) and table(tokens=K, states=K) == (K, 16)
    init, apply = functional(maker(out_channels=4))
    params = jax.eval_shape(init, jax.random.key(0))
    assert jax.eval_shape(apply, params, jax.ShapeDtypeStruct((B, L, 2), jnp.float32), 0.5).shape == (B, L, 4)


def test_a_block_refuses_an_embedding_that_it_was_not_built_for():
    module = maker(**KINDS["no time"])(nnx.Rngs(0)).blocks[0]
    with pytest.raises(ValueError, match="steered=False takes None"):
        module(jnp.zeros((B, L, 16)), jnp.zeros((1, 16)))
