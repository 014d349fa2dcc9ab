"""A module as pure functions of its parameters."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from jaxdiff.networks import MLP, DiT, Transformer, UNet, functional, in_compute_dtype

IMAGE = jnp.linspace(-1, 1, 2 * 16).reshape(2, 4, 4, 1)
TOKENS = jnp.array([[0, 5, 2, 1], [4, 4, 3, 5]])
KNOWN = {"num_classes": 3, "dtype": jnp.bfloat16}
NETWORKS = {
    "mlp": (lambda rngs: MLP((4, 4, 1), width=8, depth=2, **KNOWN, rngs=rngs), IMAGE),
    "unet": (
        lambda rngs: UNet((4, 4, 1), channels=8, multipliers=(1, 1), blocks=1, attention=(2,), **KNOWN, rngs=rngs),
        IMAGE,
    ),
    "dit": (lambda rngs: DiT((4, 4, 1), width=16, depth=2, heads=2, **KNOWN, rngs=rngs), IMAGE),
    "transformer": (lambda rngs: Transformer((4,), tokens=5, width=16, depth=2, heads=2, **KNOWN, rngs=rngs), TOKENS),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_in_the_dtype_that_they_are_computed_in_give_the_same_output(name):
    make, x = NETWORKS[name]
    init, apply = functional(make)
    shapes, keys = jax.eval_shape(init, jax.random.key(0)), iter(jax.random.split(jax.random.key(1), 200))
    # Away from the zeros that make a fresh network constant.
    params = jax.tree.map(lambda a: 0.3 * jax.random.normal(next(keys), a.shape), shapes)
    cast = in_compute_dtype(make)(params)
    assert jax.tree.structure(cast) == jax.tree.structure(params)
    # The embeddings and the scales of norms stay.
    assert {leaf.dtype for leaf in jax.tree.leaves(cast)} == {jnp.dtype("bfloat16"), jnp.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves(cast["embedding"])} == {jnp.dtype("float32")}
    args = x, jnp.array([0.3, 0.8]), jnp.array([0, 2])
    output = jax.jit(apply)(params, *args)
    assert float(jnp.abs(output).max()) > 0
    assert (jax.jit(apply)(cast, *args) == output).all()
    assert in_compute_dtype(make)(cast)["out"]["kernel"] is cast["out"]["kernel"]


def test_functional_refuses_state_that_apply_could_not_return():
    class Norm(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.BatchNorm(2, rngs=rngs)

    with pytest.raises(ValueError, match=r"nnx\.Param alone.*norm\.mean \(BatchStat\)"):
        functional(Norm)
