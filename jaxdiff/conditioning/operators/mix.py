"""Linear maps of the last axis, of channels: grey from colour; and any matrix on the whole of an example."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxdiff.types import Time, is_traced, pytree, static

Matrix = Float[Array, "M D"] | Float[np.ndarray, "M D"]


@pytree
class Channels:
    """A x = x @ weights' over the last axis, C channels to M. `Channels.grey(3)` is the mean; colorisation.

    Args:
        weights: (M, C), rows that do not depend on each other.
    """

    weights: Matrix

    def __post_init__(self):
        _check_rows("weights", self.weights)

    @classmethod
    def grey(cls, channels: int) -> "Channels":
        """The mean of the channels."""
        return cls(weights=np.full((1, channels), 1 / channels))

    def __call__(self, x: Float[Array, "B ... C"]) -> Float[Array, "B ... M"]:
        if x.shape[-1] != self.weights.shape[1]:
            raise ValueError(f"weights are of {self.weights.shape[1]} channels, and the data have {x.shape[-1]}")
        return x @ jnp.asarray(self.weights, x.dtype).T

    def adjoint(self, y: Float[Array, "B ... M"]) -> Float[Array, "B ... C"]:
        return y @ jnp.asarray(self.weights, y.dtype)

    def solve(self, y: Float[Array, "B ... M"], a: Time, b: Time) -> Float[Array, "B ... M"]:
        return _solve_rows(self.weights, y, a, b)


@pytree
class Projection:
    """A x = matrix @ x of the whole example, whose axes are made one: (B, *shape) to (B, M).

    Args:
        matrix: (M, D), D the numbers of an example, rows that do not depend on each other. `Projection.random` makes
            one of orthonormal rows.
        shape: of an example.
    """

    matrix: Matrix
    shape: tuple[int, ...] = static()

    def __post_init__(self):
        _check_rows("matrix", self.matrix)
        if self.matrix.shape[1] != math.prod(self.shape):
            raise ValueError(
                f"matrix must have a column for each of the {math.prod(self.shape)} numbers of an example of shape "
                f"{self.shape}, got {self.matrix.shape}"
            )

    @classmethod
    def random(cls, key: Key[Array, ""], shape: tuple[int, ...], count: int) -> "Projection":
        """`count` orthonormal rows, uniform among all such."""
        size = math.prod(shape)
        if not 1 <= count <= size:
            raise ValueError(f"count of rows must lie in [1, {size}], the numbers of an example, got {count}")
        return cls(matrix=jnp.linalg.qr(jax.random.normal(key, (size, count)))[0].T, shape=tuple(shape))

    def __call__(self, x: Float[Array, "B ..."]) -> Float[Array, "B M"]:
        if x.shape[1:] != self.shape:
            raise ValueError(f"the operator is of examples of shape {self.shape}, got data of shape {x.shape}")
        return x.reshape(x.shape[0], -1) @ jnp.asarray(self.matrix, x.dtype).T

    def adjoint(self, y: Float[Array, "B M"]) -> Float[Array, "B ..."]:
        return (y @ jnp.asarray(self.matrix, y.dtype)).reshape(y.shape[0], *self.shape)

    def solve(self, y: Float[Array, "B M"], a: Time, b: Time) -> Float[Array, "B M"]:
        return _solve_rows(self.matrix, y, a, b)


def _solve_rows(matrix: Matrix, y: Float[Array, "B ... M"], a: Time, b: Time) -> Float[Array, "B ... M"]:
    """By the eigenvectors of A A', which serve all a and b."""
    rows = jnp.asarray(matrix, y.dtype)
    values, axes = jnp.linalg.eigh(rows @ rows.T)
    column = lambda number: jnp.asarray(number).reshape(-1, *(1,) * (y.ndim - 1))
    return ((y @ axes) / (column(a) * values + column(b))) @ axes.T


def _check_rows(name: str, matrix: Matrix) -> None:
    if matrix.ndim != 2:
        raise ValueError(f"{name} must be a matrix, got shape {matrix.shape}")
    if not is_traced(matrix) and np.linalg.matrix_rank(np.asarray(matrix)) < matrix.shape[0]:
        raise ValueError(
            f"the {matrix.shape[0]} rows of {name} depend on each other, so that a measurement says something twice; "
            "leave rows out"
        )
