"""What networks of pictures may be given beside x: pictures, vectors, sequences, clocks; odd sizes and panoramas."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdiff import Gaussian, guidance, sample, schedules, solvers, training
from jaxdiff.networks import DiT, UNet, functional
from jaxdiff.networks.attention import CrossAttention

jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
SHAPE, BATCH = (5, 6, 2), 3
NETWORKS = {
    "unet": (UNet, {"channels": 8, "multipliers": (1, 1), "blocks": 1, "attention": (6, 3)}),
    "dit": (DiT, {"width": 16, "depth": 2, "heads": 2}),
}
GIVEN = {"num_classes": 3, "image_features": 1, "embedding_features": 4, "context_features": 2, "clocks": True}
each = pytest.mark.parametrize("name", NETWORKS)


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@cache
def build(name, plain=False, shape=SHAPE, **more):
    """Compiled `apply` and parameters away from the zeros of a fresh network."""
    network, options = NETWORKS[name]
    options = options | ({} if plain else GIVEN) | more
    init, apply = functional(lambda rngs: network(shape, **options, rngs=rngs))
    shapes, draw = jax.eval_shape(init, jax.random.key(0)), np.random.default_rng(0)
    params = jax.tree.map(lambda a: jnp.asarray(draw.normal(0.0, 0.3, a.shape), jnp.float32), shapes)
    return jit(apply), params, apply


X = normal(1, BATCH, *SHAPE)
COND = {
    "label": jnp.array([0, 1, 2]),
    "image": normal(2, BATCH, 5, 6, 1),
    "embedding": normal(3, BATCH, 4),
    "context": normal(4, BATCH, 3, 2),
}
NULL = {
    "label": jnp.array([3, 3, 3]),
    "image": jnp.zeros((BATCH, 5, 6, 1)),
    "embedding": jnp.zeros((BATCH, 4)),
    "context": jnp.zeros((BATCH, 3, 2)),
}


@each
def test_every_part_counts_and_what_is_left_out_is_null(name):
    apply, params, _ = build(name)
    full = apply(params, X, 0.5, COND)
    assert full.shape == X.shape
    for part in COND:
        rest = {key: value for key, value in COND.items() if key != part}
        without = apply(params, X, 0.5, rest)
        assert jnp.abs(full - without).max() > 1e-3, part
        np.testing.assert_allclose(without, apply(params, X, 0.5, rest | {part: NULL[part]}), atol=2e-5)
    none = apply(params, X, 0.5)
    np.testing.assert_allclose(none, apply(params, X, 0.5, NULL), atol=2e-5)
    np.testing.assert_array_equal(apply(params, X, 0.5, COND["label"]), apply(params, X, 0.5, {"label": COND["label"]}))


@each
def test_clocks_of_pixels(name):
    apply, params, _ = build(name)
    one, map_of = apply(params, X, 0.5), jnp.full((BATCH, 5, 6), 0.5)
    for clock in (jnp.full(BATCH, 0.5), map_of, jnp.full((1, 1, 6), 0.5), jnp.full((BATCH, *SHAPE), 0.5)):
        np.testing.assert_allclose(apply(params, X, clock), one, atol=2e-5)
    known = map_of.at[:, :2].set(0.0)
    assert jnp.abs(apply(params, X, known) - one).max() > 1e-3
    channel = jnp.full((BATCH, *SHAPE), 0.5).at[..., 0].set(0.0)  # one of two channels is known
    assert jnp.abs(apply(params, X, channel) - one).max() > 1e-3


@each
def test_a_batch_of_conditions_is_its_examples(name):
    apply, params, _ = build(name)
    whole = apply(params, X, jnp.full((BATCH, 5, 6), 0.5), COND)
    for i in range(BATCH):
        rows = jax.tree.map(lambda a, i=i: a[i : i + 1], COND)
        np.testing.assert_allclose(apply(params, X[i : i + 1], 0.5, rows), whole[i : i + 1], atol=2e-5)


@each
def test_odd_sizes_are_those_of_the_padded_picture_cut_back(name):
    apply, params, _ = build(name, plain=True)
    larger, same, _ = build(name, plain=True, shape=(6, 6, 2))
    assert jax.tree.structure(params) == jax.tree.structure(same)
    padded = jnp.pad(X, ((0, 0), (0, 1), (0, 0), (0, 0)), mode="edge")
    np.testing.assert_allclose(apply(params, X, 0.3), larger(params, padded, 0.3)[:, :5], atol=2e-5)


@pytest.mark.parametrize("with_blocks", [True, False])
def test_a_circular_network_turns_with_the_panorama(with_blocks):
    apply, params, _ = build("unet", plain=True, circular=True, shape=(6, 8, 2), resample_with_blocks=with_blocks)
    x = normal(5, 2, 6, 8, 2)
    turned = apply(params, jnp.roll(x, 2, 2), 0.3)
    np.testing.assert_allclose(turned, jnp.roll(apply(params, x, 0.3), 2, 2), atol=5e-5)
    flat, _, _ = build("unet", plain=True, shape=(6, 8, 2), resample_with_blocks=with_blocks)
    assert jnp.abs(flat(params, jnp.roll(x, 2, 2), 0.3) - jnp.roll(flat(params, x, 0.3), 2, 2)).max() > 1e-2


def test_cross_attention_is_the_mean_of_values_where_keys_agree():
    module = CrossAttention(4, 2, 3, rngs=nnx.Rngs(0))
    module.out.kernel[...] = jnp.eye(4)
    context = jnp.broadcast_to(normal(0, 1, 1, 3), (1, 5, 3))
    value = jnp.split(module.kv(context[:, :1]).reshape(1, 1, 2, 4), 2, -1)[1].reshape(1, 1, 4)
    np.testing.assert_allclose(module(normal(1, 1, 2, 4), context), jnp.broadcast_to(value, (1, 2, 4)), atol=1e-6)


@each
def test_training_and_guided_sampling_with_all_of_it(name):
    """One objective and one sampler take the dict of conditions, dropped and doubled, and pixels that are known."""
    _, params, apply = build(name)
    process = Gaussian(schedule=schedules.Cosine())
    null = {"label": 3, "image": 0.0, "embedding": 0.0, "context": 0.0}
    known = jnp.zeros((BATCH, 5, 6), bool).at[:, :2].set(True)
    objective = training.denoising(process, null_cond=null, cond_dropout=1.0)
    keys = jax.random.split(jax.random.key(0), BATCH)
    batch = {"x0": X, "cond": COND, "observed": known}
    run = jit(lambda batch: objective(apply, params, params, keys, batch, jnp.full(BATCH, 0.5))[0])
    np.testing.assert_allclose(run(batch), run(batch | {"cond": NULL}), rtol=1e-4)  # all are dropped

    denoise = process.denoiser(jax.tree_util.Partial(apply, params), (known, X))
    guided = guidance.classifier_free(denoise, COND, null, guidance.scale(scale=jnp.float32(2.0)))
    x, _ = jax.jit(sample, static_argnames="spec")(
        jax.random.key(1),
        process,
        guided,
        solvers.DDIM(),
        jnp.linspace(1, 0, 3),
        spec=jax.ShapeDtypeStruct((BATCH, *SHAPE), jnp.float32),
    )
    np.testing.assert_array_equal(np.asarray(x)[:, :2], np.asarray(X)[:, :2])
    assert np.isfinite(x).all()


@each
def test_conditions_that_do_not_fit(name):
    _, params, apply = build(name)
    call = lambda *args: jax.eval_shape(apply, params, *args)
    with pytest.raises(ValueError, match=r"keys label, image, embedding, context, got picture"):
        call(X, 0.5, {"picture": COND["image"]})
    with pytest.raises(
        ValueError, match=r"image must be floating with shape \(3, 5, 6, 1\), got float32\[3, 2, 3, 1\]"
    ):
        call(X, 0.5, {"image": jnp.zeros((3, 2, 3, 1))})
    with pytest.raises(ValueError, match=r"context must be floating with shape \(3, S, 2\)"):
        call(X, 0.5, {"context": jnp.zeros((3, 2))})
    with pytest.raises(ValueError, match=r"embedding must be floating with shape \(3, 4\)"):
        call(X, 0.5, {"embedding": jnp.zeros((3, 4), jnp.int32)})
    with pytest.raises(ValueError, match=r"a clock for each place, \(3, 5, 6, 2\)"):
        call(X, jnp.zeros((3, 6)))
    plain, simple = build(name, plain=True)[2], build(name, plain=True)[1]
    with pytest.raises(ValueError, match="no place for it; build it with image_features"):
        jax.eval_shape(plain, simple, X, 0.5, {"image": COND["image"]})
    with pytest.raises(ValueError, match=r"shape \(\) or \(3,\), got float32\[3, 5, 6\]"):
        jax.eval_shape(plain, simple, X, jnp.zeros((3, 5, 6)))
    network, options = NETWORKS[name]
    make = lambda rngs: network(SHAPE, **options, embedding_features=-1, rngs=rngs)
    with pytest.raises(ValueError, match="embedding must be the number of its features"):
        functional(make)
