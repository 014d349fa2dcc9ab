"""The smallest networks, batches and steps: what the tests of the training step share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from conformance import mixture

from jaxdiff import Gaussian, TrainState, make_step, networks, schedules

# These tests compile much and compute little.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
PROCESS = Gaussian(schedule=schedules.Cosine())
SGD = optax.sgd(1.0)  # params - new params is the gradient


@functools.cache
def mlp(**options):
    return networks.functional(lambda rngs: networks.MLP((2,), width=16, depth=1, **options, rngs=rngs))


def linear(params, x, t, cond=None, *, key=None):
    """The smallest network: a bare function over a dict."""
    return params["w"] * x + params["b"]


LINEAR = {"w": jnp.array([0.3, -0.2]), "b": jnp.array([0.1, 0.4])}


def state_of(params, optimizer=SGD):
    return TrainState.create(params, optimizer)


def examples(size=16, first=100):
    x0 = mixture().sample(jax.random.key(9), size)
    return {"x0": x0, "cond": jnp.arange(size) % 3, "index": first + jnp.arange(size)}


ARGUMENTS = jax.random.key(0), examples()


def take(batch, rows):
    return jax.tree.map(lambda leaf: leaf[rows], batch)


def close(a, b, rtol=1e-5, atol=1e-6):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol), a, b)


def gradient(step, state, batch, **options):
    new, metrics = step(state, jax.random.key(0), batch, **options)
    return jax.tree.map(jnp.subtract, state.params, new.params), metrics


@functools.cache
def noisy_step():
    """Dropout, condition dropout and stratified times: everything that is random."""
    init, apply = mlp(dropout=0.3, num_classes=3)
    step = jit(make_step(PROCESS, apply, SGD, null_cond=jnp.int32(3), cond_dropout=0.3))
    # Away from the zeros of a fresh output layer, so that every random number counts.
    params = jax.tree.map(lambda p: p + 0.1, init(jax.random.key(1)))
    return step, state_of(params)
