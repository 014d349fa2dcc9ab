"""Operators one after the other, and any linear function as an operator."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.conditioning.operators.protocol import check
from jaxdiff.types import pytree, static


@pytree
class Chain:
    """A x = parts[-1](... parts[0](x)): a blurred picture of few pixels is Chain(parts=(Blur(...), AveragePool(...))).

    Systems with A A' are solved by conjugate gradients.

    Raises:
        ValueError: no parts, or a part without an adjoint.
    """

    parts: tuple[Any, ...]

    def __post_init__(self):
        if not self.parts:
            raise ValueError("a chain needs at least one operator, got none")
        for part in self.parts:
            check(part)

    def __call__(self, x: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
        for part in self.parts:
            x = part(x)
        return x

    def adjoint(self, y: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
        for part in reversed(self.parts):
            y = part.adjoint(y)
        return y


@pytree
class Linear:
    """A linear function of a batch as an operator; JAX transposes it. Systems are solved by conjugate gradients.

    Args:
        function: `x (B, *shape) -> y (B, ...)`, linear, each example by itself.
        shape: of an example.

    Raises:
        ValueError: a function that is not linear where it is called: f(2 x) = 2 f(x) does not hold for a test vector.
    """

    function: Callable[..., Array] = static()
    shape: tuple[int, ...] = static()

    def __post_init__(self):
        with jax.ensure_compile_time_eval():
            x = jnp.cos(jnp.arange(jnp.prod(jnp.array(self.shape)), dtype=jnp.float32)).reshape(1, *self.shape)
            once, twice = self.function(x), self.function(2 * x)
            if not bool(jnp.allclose(2 * once, twice, rtol=1e-4, atol=1e-5)):
                raise ValueError("an operator must be linear, but f(2 x) differs from 2 f(x); leave offsets out")

    def __call__(self, x: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
        return self.function(x)

    def adjoint(self, y: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
        like = jax.ShapeDtypeStruct((y.shape[0], *self.shape), y.dtype)
        return jax.linear_transpose(self.function, like)(y)[0]
