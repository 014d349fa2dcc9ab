"""The divergence of a vector field, div f = tr df/dz, from derivatives along directions u (arXiv 1810.01367, sec. 3.1):

    exact:       sum over the basis of    u' (df/dz) u
    estimate:    mean over n random u of  u' (df/dz) u,    E u u' = I                             (Hutchinson)

Signs (Rademacher) have the smallest variance among directions with independent elements: for a symmetric Jacobian J
it is 2 sum_{i != j} J_ij^2 / n, and none where J is diagonal.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxdiff import noise

Field = Callable[[Float[Array, "B ..."]], Float[Array, "B ..."]]


def exact(
    field: Field, z: Float[Array, "B ..."], *, chunk: int = 8
) -> tuple[Float[Array, "B ..."], Float[Array, " B"]]:
    """`field(z)` and its divergence for each example, by one derivative for each of its D elements.

    Args:
        field: maps each example by itself, (B, ...) to (B, ...).
        z: shape (B, ...).
        chunk: directions at once; changes memory, not the result.
    """
    size = math.prod(z.shape[1:])
    basis = lambda i: jnp.broadcast_to(jax.nn.one_hot(i, size, dtype=z.dtype).reshape(z.shape[1:]), z.shape)
    return _sum_along(field, z, basis, size, chunk)


def hutchinson(
    keys: Key[Array, " B"], field: Field, z: Float[Array, "B ..."], probes: int, *, chunk: int = 8
) -> tuple[Float[Array, "B ..."], Float[Array, " B"]]:
    """`field(z)` and an unbiased estimate of its divergence from `probes` vectors of signs for each example.

    Args:
        keys: one key for each example.
        field, z, chunk: as in `exact`.
        probes: number of vectors, >= 1.
    """
    size = math.prod(z.shape[1:])

    def signs(i):
        # Drawn flat, as in `noise.normal`.
        draw = lambda key: jax.random.rademacher(key, (size,), z.dtype)
        return jax.vmap(draw)(noise.fold(keys, i)).reshape(z.shape)

    value, total = _sum_along(field, z, signs, probes, chunk)
    return value, total / probes


def _sum_along(
    field: Field, z: Float[Array, "B ..."], direction: Callable[[Int[Array, ""]], Array], count: int, chunk: int
) -> tuple[Float[Array, "B ..."], Float[Array, " B"]]:
    """`field(z)` and the sum of u' (df/dz) u over u = direction(0), ..., direction(count - 1), `chunk` at a time."""
    chunk = min(chunk, count)
    value, back = jax.vjp(field, z)

    def along(i):
        u = direction(i)
        return jnp.where(i < count, (u * back(u)[0]).sum(tuple(range(1, z.ndim))), 0.0)

    part = lambda start: jax.vmap(along)(start + jnp.arange(chunk)).sum(0)
    if chunk == count:
        return value, part(0)
    add = lambda total, start: (total + part(start), None)
    return value, jax.lax.scan(add, part(0), jnp.arange(chunk, count, chunk))[0]
