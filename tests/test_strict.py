"""The core under JAX's strict modes: no silent promotion of ranks or dtypes, no NaN, no host transfers, no leaks.

Networks add biases (C,) to rows (N, C) on purpose, so they run with rank promotion allowed.
"""

import contextlib

import jax
import jax.numpy as jnp
import optax
import pytest

from jaxdiff import Gaussian, TrainState, grids, guidance, make_step, networks, sample, schedules, solvers

SOLVERS = {
    "ancestral": solvers.Ancestral(),
    "ddim": solvers.DDIM(eta=0.5),
    "heun": solvers.Heun(),
    "dpm++ 2m": solvers.DPMpp2M(),
    "dpm++ 3m": solvers.DPMpp3M(start=solvers.DPMpp2S()),
    "dpm++ 2m sde": solvers.DPMpp2MSDE(),
    "unipc": solvers.UniPC(),
    "deis": solvers.DEIS(),
}


def halve(x, t, cond=None):
    return 0.5 * x


@contextlib.contextmanager
def strict(ranks="raise"):
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.numpy_rank_promotion(ranks))
        stack.enter_context(jax.numpy_dtype_promotion("strict"))
        stack.enter_context(jax.debug_nans(True))
        stack.enter_context(jax.checking_leaks())
        yield


@pytest.mark.slow
@pytest.mark.parametrize("name", SOLVERS)
def test_sampling_is_strict(name):
    """With guidance, on a schedule without signal at t = 1, to the data."""
    process = Gaussian(schedule=schedules.Cosine())
    denoise = process.denoiser(jax.tree_util.Partial(halve))
    denoise = guidance.classifier_free(denoise, jnp.array([0, 1, 2, 0]), jnp.int32(3), guidance.scale(scale=2.0))
    grid, spec = grids.karras(process.schedule, 10), jax.ShapeDtypeStruct((4, 2), jnp.float32)
    arguments = jax.device_put((jax.random.key(0), process, denoise, SOLVERS[name], grid))
    with strict():
        compiled = jax.jit(sample, static_argnames=("spec",)).lower(*arguments, spec=spec).compile()
        with jax.transfer_guard("disallow"):
            x, info = compiled(*arguments)
            jax.block_until_ready(x)
    assert int(info.nfe) >= 10 and jnp.isfinite(x).all()


MAKE = {
    "mlp": lambda rngs: networks.MLP((8, 8, 1), width=16, depth=1, num_classes=3, dropout=0.1, rngs=rngs),
    "unet": lambda rngs: networks.UNet(
        (8, 8, 1), channels=8, multipliers=(1, 2), blocks=1, attention=(4,), head_dim=8, num_classes=3, rngs=rngs
    ),
    "dit": lambda rngs: networks.DiT((8, 8, 1), width=16, depth=1, heads=2, num_classes=3, rngs=rngs),
    "none": None,
}


@pytest.mark.slow
@pytest.mark.parametrize("network", MAKE)
def test_training_is_strict(network):
    """A step with dropped conditions and dropout; by itself, without a network, with ranks as well."""
    init = lambda key: {"w": jnp.ones(())}
    apply = lambda params, x, t, cond=None, *, s=None, key=None: params["w"] * x
    if MAKE[network] is not None:
        init, apply = networks.functional(MAKE[network])
    # Adam in Optax raises a float to an integer power, which strict promotion refuses.
    process, optimizer = Gaussian(schedule=schedules.Cosine()), optax.sgd(1e-3, momentum=0.9)
    step = make_step(process, apply, optimizer, null_cond=jnp.int32(3), cond_dropout=0.1)
    state = TrainState.create(init(jax.random.key(0)), optimizer)
    batch = {"x0": jnp.zeros((4, 8, 8, 1)), "cond": jnp.array([0, 1, 2, 0]), "index": jnp.arange(4)}
    arguments = jax.device_put((state, jax.random.key(1), batch))
    with strict("raise" if MAKE[network] is None else "allow"):
        compiled = jax.jit(step).lower(*arguments).compile()
        with jax.transfer_guard("disallow"):
            state, metrics = compiled(*arguments)
            jax.block_until_ready(state)
    assert jnp.isfinite(metrics["loss"])
