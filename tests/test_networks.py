"""Properties of the networks: what every one of them promises, then what is particular to each."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.test_util import check_grads

from jaxdiff.networks import MLP, DiT, UNet, functional
from jaxdiff.networks.attention import SelfAttention, attend
from jaxdiff.networks.block import Block
from jaxdiff.networks.dropout import dropout
from jaxdiff.networks.embeddings import time_features
from jaxdiff.networks.layers import Conv
from jaxdiff.networks.norms import GroupNorm, groups_of, layer_norm, rms_norm
from jaxdiff.networks.positions import rotary_2d
from jaxdiff.networks.residual import Residual

# These tests compile much and compute little.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
IMAGE = (4, 4, 1)
NETWORKS = {
    "mlp": (MLP, (3, 2), {"width": 8, "depth": 2}),
    "unet": (UNet, IMAGE, {"channels": 8, "multipliers": (1, 1), "blocks": 1, "attention": (2,)}),
    "dit": (DiT, IMAGE, {"width": 16, "depth": 2, "heads": 2, "rotary": True}),
}
pytestmark = pytest.mark.filterwarnings("error")
each = pytest.mark.parametrize("name", NETWORKS)


@cache
def build(name, **options):
    network, shape, defaults = NETWORKS[name]
    options = {"num_classes": 3, "dropout": 0.5, "two_times": True} | defaults | options
    init, apply = functional(lambda rngs: network(shape, **options, rngs=rngs))
    return jit(init), jit(apply), apply


@cache
def perturbed(name):
    """Parameters away from the zeros that make a fresh network constant (drawn in numpy: nothing to compile)."""
    draw = np.random.default_rng(0)
    params = jax.eval_shape(build(name)[0], jax.random.key(0))
    return jax.tree.map(lambda a: jnp.asarray(draw.normal(0.3, 0.3, a.shape), jnp.float32), params)


def batch(name, size=4):
    return jnp.asarray(np.random.default_rng(1).normal(size=(size, *NETWORKS[name][1])), jnp.float32)


def keys(size=4):
    return jax.random.split(jax.random.key(7), size)


LABELS = jnp.array([0, 1, 2, 3])
TIMES = jnp.linspace(0.1, 0.9, 4)


@each
def test_params_are_a_plain_float32_dict_with_string_keys_and_the_fresh_output_is_zero(name):
    init, apply, _ = build(name)
    params = init(jax.random.key(0))

    def walk(tree):
        assert type(tree) is dict
        for name, child in tree.items():
            assert type(name) is str
            if not isinstance(child, jax.Array):
                walk(child)

    walk(params)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    output = apply(params, batch(name), TIMES, LABELS)
    assert output.shape == batch(name).shape and output.dtype == jnp.float32 and not output.any()
    again = build(name)[0](jax.random.key(0))
    other = init(jax.random.key(1))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), params, again))
    assert not jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), params, other))


@each
def test_bfloat16_computes_near_float32_and_returns_float32(name):
    init, apply, _ = build(name, dtype=jnp.bfloat16)
    shapes = jax.eval_shape(init, jax.random.key(0))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(shapes))
    output = apply(perturbed(name), batch(name), TIMES, LABELS)
    exact = build(name)[1](perturbed(name), batch(name), TIMES, LABELS)
    assert output.dtype == jnp.float32
    assert float(jnp.abs(output - exact).max()) < 0.1 * float(jnp.abs(exact).max())
    assert float(jnp.abs(output - exact).max()) > 0


@each
def test_conditions(name):
    apply, params, x = build(name)[1], perturbed(name), batch(name)
    output = apply(params, x, TIMES, LABELS)
    null = apply(params, x, TIMES, jnp.full(4, 3))
    np.testing.assert_allclose(apply(params, x, TIMES), null, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(output[3], null[3], rtol=1e-5, atol=1e-5)
    for i in range(3):
        assert jnp.abs(output[i] - null[i]).max() > 1e-4
    for wrong in (-1, 4):
        outside = apply(params, x, TIMES, LABELS.at[0].set(wrong))
        assert jnp.isnan(outside[0]).all() and jnp.isfinite(outside[1:]).all()


@each
def test_times(name):
    apply, params, x = build(name)[1], perturbed(name), batch(name)
    output = apply(params, x, jnp.full(4, 0.3), LABELS)
    near = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5 * float(jnp.abs(output).max()))
    near(apply(params, x, 0.3, LABELS, s=0.3), output)  # a scalar serves all; s is t where not given
    assert jnp.abs(apply(params, x, 0.3, LABELS, s=0.1) - output).max() > 1e-4
    assert jnp.abs(apply(params, x, 0.4, LABELS, s=0.3) - output).max() > 1e-4


@each
def test_dropout_belongs_to_the_example(name):
    apply, params, x = build(name)[1], perturbed(name), batch(name)
    full = apply(params, x, TIMES, LABELS, key=keys())
    half = apply(params, x[:2], TIMES[:2], LABELS[:2], key=keys()[:2])
    scale = float(jnp.abs(full).max())
    np.testing.assert_allclose(full[:2], half, rtol=1e-5, atol=1e-5 * scale)
    plain = apply(params, x, TIMES, LABELS)
    assert all(jnp.abs(a - b).max() > 1e-3 * scale for a, b in zip(full, plain, strict=True))
    same = apply(params, x[:1].repeat(4, 0), TIMES[:1].repeat(4), LABELS[:1].repeat(4), key=keys())
    assert jnp.abs(same[0] - same[1]).max() > 1e-3 * float(jnp.abs(same).max())
    assert (apply(params, x, TIMES, LABELS) == plain).all()


def loss(apply, params, x, target):
    return jnp.square(apply(params, x, TIMES, LABELS, s=TIMES / 2, key=keys()) - target).mean()


@each
def test_gradient_reaches_every_parameter_and_remat_leaves_it_alone(name):
    x = batch(name)
    grad = lambda apply: jit(jax.grad(lambda p: loss(apply, p, x, x[::-1])))(perturbed(name))
    plain, remat = grad(build(name)[2]), grad(build(name, remat=True)[2])
    for path, leaf in jax.tree.leaves_with_path(plain):
        assert jnp.isfinite(leaf).all(), jax.tree_util.keystr(path)
        assert leaf.any(), jax.tree_util.keystr(path)
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(plain))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * scale), plain, remat)


def test_remat_stores_less():
    x, params = batch("mlp"), perturbed("mlp")

    def stored(**options):
        backward = jax.eval_shape(lambda p: jax.vjp(lambda p: loss(build("mlp", **options)[2], p, x, x), p)[1], params)
        return sum(leaf.size for leaf in jax.tree.leaves(backward))

    assert stored(remat=True) < stored()


@each
def test_one_trace_for_many_calls_and_vmap_over_parameters(name):
    network, shape, options = NETWORKS[name]
    init, apply = functional(lambda rngs: network(shape, **options, rngs=rngs))
    traces = []

    @jit
    def counted(params, x, t):
        traces.append(1)
        return apply(params, x, t)

    params = jit(init)(jax.random.key(0))
    for t in (0.1, 0.2, 0.3):
        counted(params, batch(name), jnp.float32(t))
        params = jax.tree.map(lambda a: a + 0.1, params)
    assert len(traces) == 1
    two = jax.tree.map(lambda a: jnp.stack([a, a + 0.1]), params)
    both = jax.eval_shape(jax.vmap(apply, (0, None, None)), two, batch(name), jnp.float32(0.5))
    assert both.shape == (2, *batch(name).shape)


@each
def test_refusals_name_what_was_needed(name):
    apply, params, x = build(name)[2], perturbed(name), batch(name)
    network, shape, options = NETWORKS[name]
    _, plain = functional(lambda rngs: network(shape, **options, rngs=rngs))
    call = lambda apply, *args, **kwargs: jax.eval_shape(lambda: apply(params, *args, **kwargs))
    with pytest.raises(ValueError, match="x must be floating"):
        call(apply, x[0], 0.5)
    with pytest.raises(ValueError, match=r"t must be a float time in \[0, 1\] of shape \(\) or \(4,\)"):
        call(apply, x, TIMES[:3])
    with pytest.raises(ValueError, match="t must be"):
        call(apply, x, TIMES[:, None])
    with pytest.raises(ValueError, match="s must be"):
        call(apply, x, 0.5, s=TIMES[:3])
    with pytest.raises(ValueError, match="cond must be integer labels"):
        call(apply, x, 0.5, TIMES)
    with pytest.raises(ValueError, match="cond must be integer labels"):
        call(apply, x, 0.5, LABELS[:3])
    with pytest.raises(ValueError, match="key must be typed keys"):
        call(apply, x, 0.5, key=keys(3))
    with pytest.raises(ValueError, match="params must have the keys"):
        jax.eval_shape(lambda: apply({"other": jnp.zeros(())}, x, 0.5))
    params = jax.eval_shape(functional(lambda rngs: network(shape, **options, rngs=rngs))[0], jax.random.key(0))
    params = jax.tree.map(lambda a: jnp.zeros(a.shape), params)
    with pytest.raises(ValueError, match="build it with num_classes"):
        call(plain, x, 0.5, LABELS)
    with pytest.raises(ValueError, match="build it with two_times=True"):
        call(plain, x, 0.5, s=0.1)
    with pytest.raises(ValueError, match=r"dropout must be a probability in \[0, 1\)"):
        functional(lambda rngs: network(shape, **(options | {"dropout": 1.0}), rngs=rngs))


def test_sizes_that_cannot_be_built():
    make = lambda network, shape, **options: functional(lambda rngs: network(shape, **options, rngs=rngs))
    with pytest.raises(ValueError, match=r"circular width must be divisible by patch 2\^\(levels - 1\) = 8, got 28"):
        make(UNet, (28, 28, 1), multipliers=(1, 1, 1, 1), circular=True)
    with pytest.raises(ValueError, match="patch must be at least 1, got 0"):
        make(UNet, (8, 8, 1), patch=0)
    with pytest.raises(ValueError, match="head_dim must divide the 12 channels"):
        make(UNet, (4, 4, 1), channels=12, multipliers=(1,), head_dim=8, attention=(4,))
    with pytest.raises(ValueError, match="heads must divide the width"):
        make(DiT, (8, 8, 1), width=16, heads=3)
    with pytest.raises(ValueError, match="divisible by 4"):
        make(DiT, (8, 8, 1), width=12, heads=2, rotary=True)


def test_attention_stands_at_the_chosen_heights_alone():
    def attending(attention):
        options = {"channels": 8, "multipliers": (1, 1, 1), "blocks": 1, "attention": attention}
        init, _ = functional(lambda rngs: UNet((8, 8, 1), **options, rngs=rngs))
        shapes = jax.eval_shape(init, jax.random.key(0))
        return {
            f"{road}{i}" for road in ("down", "middle", "up") for i in shapes[road] if "attention" in shapes[road][i]
        }

    # Down: 8, resize, 4, resize, 2. Up: two blocks at 2, resize, two at 4, resize, two at 8.
    assert attending(()) == set()
    assert attending((4,)) == {"down2", "middle0", "up3", "up4"}
    assert attending((8, 2, 64)) == {"down0", "down4", "middle0", "up0", "up1", "up6", "up7"}


def test_unet_without_resampling_blocks_other_channels_and_oblong_images():
    options = {"channels": 8, "multipliers": (1, 2), "blocks": 1, "resample_with_blocks": False, "out_channels": 4}
    init, apply = functional(lambda rngs: UNet((4, 8, 2), **options, rngs=rngs))
    shapes = jax.eval_shape(init, jax.random.key(0))
    assert jax.eval_shape(apply, shapes, jax.ShapeDtypeStruct((3, 4, 8, 2), jnp.float32), 0.5).shape == (3, 4, 8, 4)
    assert set(shapes["down"]["1"]) == {"conv"}


def test_strided_windows_stand_on_odd_pixels_or_centred_on_even_ones():
    pixels = jnp.arange(16.0).reshape(1, 4, 4, 1)
    for centred, first in ((False, 1), (True, 0)):
        conv = Conv(1, 1, stride=2, centred=centred, zero=True, rngs=nnx.Rngs(0))
        conv.kernel[...] = conv.kernel[...].at[1, 1].set(1)  # the middle of a window
        np.testing.assert_array_equal(conv(pixels), pixels[:, first::2, first::2])


def test_a_residual_block_scales_and_shifts_or_adds_and_its_sum_is_scaled():
    norm = partial(GroupNorm, groups=8, least=1, epsilon=1e-3)
    options = {"embedding": 3, "norm": norm, "rate": 0, "site": 0, "dtype": jnp.float32, "rngs": nnx.Rngs(0)}
    x = jnp.asarray(np.random.default_rng(5).normal(size=(2, 4, 4, 8)), jnp.float32)
    rows = jnp.ones((1, 3))
    adds, scales = Residual(8, 8, additive=True, scale=1, **options), Residual(8, 8, **options)
    assert (adds.modulation.kernel.shape, scales.modulation.kernel.shape) == ((3, 8), (3, 16))
    assert adds.last_norm.groups == 8 and adds.last_norm.epsilon == 1e-3
    np.testing.assert_array_equal(adds(x, rows, None), x)  # the last convolution starts at zero
    np.testing.assert_allclose(scales(x, rows, None), x * 0.5**0.5, rtol=1e-6)
    for block in (adds, scales):
        block.last.kernel[...] = jnp.ones_like(block.last.kernel[...])
    near = lambda block, by: np.testing.assert_allclose(block(x, by * rows, None), block(x, 0 * rows, None), atol=1e-2)
    near(adds, 5.0)  # a channel is a group: its norm takes away what is added
    with pytest.raises(AssertionError):
        near(scales, 5.0)


def test_rotary_positions_see_differences_alone():
    angles = rotary_2d(2, 4, 8)
    assert angles.shape == (8, 4)
    module = SelfAttention(8, 1, qk_norm=True, rngs=nnx.Rngs(0))
    tokens = jnp.asarray(np.random.default_rng(2).normal(size=(1, 2, 8)), jnp.float32)
    at = lambda i, j: module(tokens, angles[jnp.array([i, j])])
    np.testing.assert_allclose(at(0, 1), at(2, 3), atol=1e-5)  # the same step along a row
    np.testing.assert_allclose(at(0, 5), at(2, 7), atol=1e-5)  # along both axes
    assert jnp.abs(at(0, 1) - at(0, 4)).max() > 1e-4  # a step down is not a step to the right
    assert jnp.abs(at(0, 1) - at(0, 2)).max() > 1e-4


def test_attention_without_positions_ignores_the_order_of_tokens():
    block = Block(8, 2, hidden=16, qk_norm=True, rngs=nnx.Rngs(0))
    block.modulation.bias[...] = jnp.linspace(-1, 1, 48)
    tokens = jnp.asarray(np.random.default_rng(3).normal(size=(2, 5, 8)), jnp.float32)
    order = jnp.array([3, 1, 4, 0, 2])
    embedding = jnp.zeros((1, 8))
    np.testing.assert_allclose(block(tokens, embedding)[:, order], block(tokens[:, order], embedding), atol=1e-5)


def test_norms():
    x = jnp.asarray(np.random.default_rng(4).normal(5, 3, (2, 4, 4, 8)), jnp.float32)
    y = GroupNorm(8)(x).reshape(2, 16, 2, 4)
    np.testing.assert_allclose(y.mean((1, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(y.std((1, 3)), 1, atol=1e-5)
    scale, shift = jnp.full((1, 8), 2.0), jnp.full((2, 8), -1.0)
    np.testing.assert_allclose(GroupNorm(8)(x, scale, shift), 3 * GroupNorm(8)(x) - 1, atol=1e-5)
    np.testing.assert_allclose(layer_norm(x).std(-1), 1, atol=1e-4)
    np.testing.assert_allclose(jnp.square(rms_norm(x, jnp.ones(8))).mean(-1), 1, atol=1e-5)
    assert [groups_of(c, 32) for c in (1, 3, 8, 20, 32, 36, 128, 144, 384)] == [1, 1, 2, 5, 8, 9, 32, 24, 32]
    check_grads(lambda x: GroupNorm(8)(jnp.asarray(x)), (x[:1, :2, :2],), 1, modes=["rev"], atol=5e-2, rtol=5e-2)


def test_dropout_keeps_the_mean_and_differs_between_sites():
    x, source = jnp.ones((2, 4000)), keys(2)
    first, second = dropout(x, 0.25, source, 0), dropout(x, 0.25, source, 1)
    assert set(np.unique(first)) == {np.float32(0), np.float32(1 / 0.75)}
    np.testing.assert_allclose(first.mean(-1), 1, atol=0.05)
    assert (first != second).any() and (first[0] != first[1]).any()
    assert dropout(x, 0.25, None, 0) is x and dropout(x, 0.0, source, 0) is x


def test_time_features_tell_near_times_apart_and_are_exact_at_zero():
    features = time_features(jnp.array([0.0, 0.5, 0.501]), 16)
    assert features.shape == (3, 16) and features.dtype == jnp.float32
    np.testing.assert_array_equal(features[0], np.repeat([1.0, 0.0], 8))
    assert jnp.abs(features[1] - features[2]).max() > 0.5
    # A period of 10^6 at 6 features: the frequencies are 1, 1/100 and 1/10000, those of 10^4 with n - 1 for n.
    angles = 500 * np.array([1, 1e-2, 1e-4])
    expected = np.concatenate([np.cos(angles), np.sin(angles)])
    np.testing.assert_allclose(time_features(0.5, 6, 10**6)[0], expected, atol=1e-4)


def test_unet_on_patches_keeps_the_size_and_differs_only_in_cost():
    """With `patch` the first level is smaller; shape, zero start and conditioning stay as they are."""
    init, apply = functional(
        lambda rngs: UNet((8, 8, 1), channels=8, multipliers=(1, 2), patch=2, blocks=1, attention=(), rngs=rngs)
    )
    x = jax.random.normal(jax.random.key(0), (3, 8, 8, 1))
    params = init(jax.random.key(1))
    assert params["stem"]["kernel"].shape == (3, 3, 4, 8)
    np.testing.assert_array_equal(apply(params, x, jnp.float32(0.5)), jnp.zeros_like(x))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_and_its_gradients_are_jaxs_own(dtype, causal):
    q, k, v = (jax.random.normal(jax.random.key(i), (2, n, 3, 8)) for i, n in enumerate((5, 7, 7)))
    mask = jnp.tri(5, 7, 2, dtype=bool) if causal else None
    narrow = lambda a: a.astype(dtype)
    theirs = partial(jax.nn.dot_product_attention, mask=None if mask is None else mask[None, None])
    ours = lambda *args: attend(*args, mask)
    exact = dtype == jnp.float32
    near = lambda a, b, atol: np.testing.assert_allclose(a, b, rtol=0, atol=atol)
    out = ours(narrow(q), narrow(k), narrow(v))
    assert out.dtype == dtype
    near(out.astype(jnp.float32), theirs(q, k, v), 1e-5 if exact else 0.03)
    loss = lambda f: lambda *args: jnp.square(f(*map(narrow, args)).astype(jnp.float32)).sum()
    for mine, other in zip(*(jax.grad(loss(f), (0, 1, 2))(q, k, v) for f in (ours, theirs)), strict=True):
        near(mine, other, 1e-4 if exact else 0.1)
    _, slope = jax.jvp(ours, (q, k, v), (q, k, v))
    near(slope, jax.jvp(theirs, (q, k, v), (q, k, v))[1], 1e-4)


def test_attention_survives_scores_beyond_the_range_of_the_exponential():
    q = jnp.full((1, 2, 1, 4), 1e4)
    assert jnp.isfinite(attend(q, q, q)).all()


def test_flash_attention_is_refused_where_cudnn_does_not_take_it_and_changes_nothing_without_a_gpu():
    make = lambda **options: SelfAttention(16, 2, **options, rngs=nnx.Rngs(0))
    for options in ({}, {"dtype": jnp.float32}):
        with pytest.raises(ValueError, match="flash attention needs dtype bfloat16"):
            make(flash=True, **options)
    with pytest.raises(ValueError, match="flash attention needs"):
        DiT((4, 4, 1), width=16, heads=4, flash=True, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (2, 5, 16))
    if jax.default_backend() != "gpu":
        plain, flash = (make(flash=flash, dtype=jnp.bfloat16) for flash in (False, True))
        assert (plain(x) == flash(x)).all()


@pytest.mark.gpu
def test_flash_attention_is_near_attention_in_single_precision():
    q, k, v = (jax.random.normal(jax.random.key(i), (2, 64, 4, 32), jnp.bfloat16) for i in range(3))
    flash = jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
    wide = attend(*(a.astype(jnp.float32) for a in (q, k, v)))
    np.testing.assert_allclose(flash.astype(jnp.float32), wide, rtol=0, atol=0.03)
