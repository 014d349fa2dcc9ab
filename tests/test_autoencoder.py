"""The autoencoder and its objective: shapes, the KL in closed form, gradients, the functional split, devices."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdiff
from jaxdiff import autoencoding, parallel, schedules
from jaxdiff.networks import Autoencoder, encoder_decoder

jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
SHAPE = (8, 12, 3)


def maker(shape=SHAPE, **options):
    options = {"channels": 4, "multipliers": (1, 2), "patch": 1, "blocks": 1, "latent": 2} | options
    return lambda rngs: Autoencoder(shape, rngs=rngs, **options)


@cache
def split(shape=SHAPE, **options):
    init, encode, decode = encoder_decoder(maker(shape, **options))
    return init(jax.random.key(0)), jit(encode), jit(decode)


def pictures(size=8, shape=SHAPE):
    return jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (size, *shape)), jnp.float32)


@pytest.mark.parametrize(
    ("options", "latents"),
    [({}, (4, 6, 2)), ({"patch": 2, "latent": 3}, (2, 3, 3)), ({"multipliers": (1, 1, 1)}, (2, 3, 2))],
)
def test_latents_are_smaller_by_the_factor_and_decode_to_the_shape(options, latents):
    params, encode, decode = split(**options)
    mean, log_std = encode(params, pictures())
    assert mean.shape == log_std.shape == (8, *latents)
    assert decode(params, mean).shape == (8, *SHAPE)
    assert mean.dtype == decode(params, mean).dtype == jnp.float32


def test_the_split_is_the_module_and_its_params_are_a_plain_dict():
    from flax import nnx

    params, encode, decode = split()
    module = maker()(nnx.Rngs(jax.random.key(0)))
    mean = jit(lambda x: module.encode(x)[0])(pictures())
    np.testing.assert_allclose(encode(params, pictures())[0], mean, atol=1e-5)
    np.testing.assert_allclose(decode(params, mean), jit(module.decode)(mean), atol=1e-5)
    assert all(type(entry.key) is str for path, _ in jax.tree_util.tree_leaves_with_path(params) for entry in path)


def test_parameters_serve_another_size():
    params, *_ = split()
    _, encode, decode = split((16, 8, 3))
    mean, _ = encode(params, pictures(shape=(16, 8, 3)))
    assert decode(params, mean).shape == (8, 16, 8, 3)


def test_kl_is_that_of_numerical_integration():
    mean, std = np.array([0.7, -1.2]), np.array([0.5, 1.7])
    x = np.linspace(-20, 20, 400_001)[:, None]
    q = np.exp(-0.5 * ((x - mean) / std) ** 2) / std / np.sqrt(2 * np.pi)
    log_ratio = -0.5 * ((x - mean) / std) ** 2 - np.log(std) + 0.5 * x**2
    expected = (q * log_ratio).sum() * (x[1, 0] - x[0, 0])
    got = autoencoding.kl(jnp.asarray(mean, jnp.float32)[None], jnp.log(jnp.asarray(std, jnp.float32))[None])
    np.testing.assert_allclose(got, [expected], rtol=1e-5)
    assert autoencoding.kl(jnp.zeros((3, 2, 2)), jnp.zeros((3, 2, 2))).tolist() == [0, 0, 0]


def test_the_objective_is_its_formula():
    params, encode, decode = split()
    x0, keys = pictures(), jax.random.split(jax.random.key(1), 8)
    mean, log_std = encode(params, x0)
    z = mean + jnp.exp(log_std) * jaxdiff.noise.normal(keys, mean)
    nats = autoencoding.kl(mean, log_std)
    for error in (jnp.abs, jnp.square):
        objective = autoencoding.reconstruction(encode, decode, kl_weight=0.3, error=error)
        loss, metrics = objective(None, params, params, keys, {"x0": x0}, None)
        lost = error(decode(params, z) - x0).mean((1, 2, 3))
        np.testing.assert_allclose(loss, lost + 0.3 * nats / x0[0].size, rtol=1e-5)
        np.testing.assert_allclose(metrics["error"], lost, rtol=1e-5)
        np.testing.assert_allclose(metrics["kl"], nats, rtol=1e-5)


def trained(steps, step):
    params, *_ = split()
    state = jaxdiff.TrainState.create(params, optax.adam(1e-2))
    for _ in range(steps):
        state, metrics = step(state, jax.random.key(2), {"x0": pictures()})
    return state, metrics


def plain_step():
    _, encode, decode = encoder_decoder(maker())
    objective = autoencoding.reconstruction(encode, decode)
    process = jaxdiff.Gaussian(schedule=schedules.Cosine())
    return jaxdiff.make_step(process, encode, optax.adam(1e-2), objective=objective)


def test_every_parameter_learns_and_the_error_falls():
    step = jit(plain_step())
    state, first = trained(1, step)
    state, last = trained(60, step)
    before, *_ = split()
    still = jax.tree.map(lambda a, b: bool((a == b).all()), before, state.params)
    assert not any(jax.tree.leaves(still)), still
    assert last["error"] < 0.6 * first["error"]


def test_several_devices_give_the_step_of_one():
    _, metrics = trained(1, jit(plain_step()))
    step = parallel.pmap_step(plain_step(), devices=jax.devices()[:2])
    params, *_ = split()
    state = parallel.replicate(jaxdiff.TrainState.create(params, optax.adam(1e-2)), jax.devices()[:2])
    state, shared = step(state, jax.random.key(2), {"x0": pictures()})
    np.testing.assert_allclose(shared["loss"], metrics["loss"], rtol=1e-5)
    np.testing.assert_allclose(shared["kl"], metrics["kl"], rtol=1e-5)
    np.testing.assert_allclose(shared["grad_norm"], metrics["grad_norm"], rtol=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: encoder_decoder(maker((9, 12, 3))), "smaller by 2.*9 x 12; resize them to 10 x 12"),
        (lambda: encoder_decoder(maker(multipliers=())), "one multiplier for each level"),
        (lambda: split()[1](split()[0], jnp.zeros((2, 4, 4, 3))), r"x must be floating with shape \(B, 8, 12, 3\)"),
        (lambda: split()[2](split()[0], jnp.zeros((2, 4, 4, 2))), r"z must be floating with shape \(B, 4, 6, 2\)"),
        (lambda: autoencoding.reconstruction(jnp.abs, jnp.abs, kl_weight=-1.0), "must not be negative"),
    ],
)
def test_errors_say_what_to_do(call, message):
    with pytest.raises(Exception, match=message) as caught:
        call()
    assert isinstance(caught.value, ValueError | TypeError)
