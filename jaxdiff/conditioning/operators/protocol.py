"""A linear operator A on data with a batch axis, y = A x0: what a conditioning method asks of it.

    A(x)              (B, *event) -> (B, *measured)
    A.adjoint(y)      A' y: <A x, y> = <x, A' y> in each example
    A.solve(y, a, b)  (a A A' + b)^-1 y for y in the range of A, a, b >= 0 of shape () or (B,)

An operator of your own is a frozen pytree with the first two; without the third it is solved by conjugate gradients.
"""

from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.conditioning.conjugate_gradients import conjugate_gradients
from jaxdiff.types import Time, expand

Event = Float[Array, "B ..."]


@runtime_checkable
class Operator(Protocol):
    """y = A x; linear, and the same for every example."""

    def __call__(self, x: Event, /) -> Event: ...

    def adjoint(self, y: Event, /) -> Event: ...


def check(operator: Any) -> Any:
    """The operator itself.

    Raises:
        ValueError: it cannot be called, or has no adjoint.
    """
    if not callable(operator) or not hasattr(operator, "adjoint"):
        raise ValueError(
            f"a linear operator needs __call__ and adjoint, got {type(operator).__name__}; wrap a linear function as "
            "operators.Linear(function=f, shape=x.shape[1:]), which finds its adjoint"
        )
    return operator


def solve(operator: Any, y: Event, a: Time, b: Time, *, iterations: int = 50) -> Event:
    """(a A A' + b)^-1 y: the operator's own `solve`, or conjugate gradients."""
    if hasattr(operator, "solve"):
        return operator.solve(y, a, b)
    apply = lambda v: expand(a, v) * operator(operator.adjoint(v)) + expand(b, v) * v
    return conjugate_gradients(apply, y, iterations=iterations)


def pseudo_inverse(operator: Any, y: Event) -> Event:
    """A^+ y = A' (A A')^-1 y, for y in the range of A: of all x with A x = y the one of smallest norm."""
    return operator.adjoint(solve(operator, y, 1.0, 0.0))


def scaled(y: Event, gram: Time, a: Time, b: Time) -> Event:
    """(a gram + b)^-1 y, for A A' = gram on the range of A."""
    return y / expand(jnp.asarray(a) * gram + jnp.asarray(b), y)
