"""Conjugate gradients for one system an example (Hestenes and Stiefel, 1952), differentiable and of fixed length."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.types import expand

Vector = Float[Array, "B ..."]


def conjugate_gradients(apply: Callable[[Vector], Vector], y: Vector, *, iterations: int) -> Vector:
    """An approximate solution v of apply(v) = y, each example by itself, from v = 0.

    Args:
        apply: linear, symmetric and positive semi-definite in each example.
        y: right-hand sides (B, ...), in the range of `apply`.
        iterations: steps; as many as y has numbers are exact in exact arithmetic. An example that is solved stands
            still.
    """
    inner = lambda u, v: (u * v).sum(tuple(range(1, u.ndim)))
    tiny = jnp.finfo(y.dtype).tiny

    def step(carry, _):
        v, residual, direction, norm = carry
        image = apply(direction)
        curvature = inner(direction, image)
        # Below the rounding of the first residual there is only noise to follow.
        going = (norm > first * jnp.finfo(y.dtype).eps ** 2) & (curvature > tiny)
        rate = expand(jnp.where(going, norm / jnp.where(going, curvature, 1.0), 0.0), v)
        v, residual = v + rate * direction, residual - rate * image
        new = inner(residual, residual)
        momentum = expand(jnp.where(going, new / jnp.where(going, norm, 1.0), 0.0), v)
        direction = jnp.where(expand(going, v), residual + momentum * direction, direction)
        return (v, residual, direction, jnp.where(going, new, norm)), None

    first = inner(y, y)
    start = (jnp.zeros_like(y), y, y, first)
    return jax.lax.scan(step, start, None, length=iterations)[0][0]
