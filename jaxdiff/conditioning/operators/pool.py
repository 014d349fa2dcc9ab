"""Means over squares of pixels: A x of a picture (B, H, W, C) has (H / factor, W / factor). Super-resolution."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.conditioning.operators.protocol import scaled
from jaxdiff.types import Time, pytree, static


@pytree
class AveragePool:
    """The mean of each factor x factor square; A A' = 1 / factor^2.

    Args:
        factor: side of a square in pixels, at least 2.

    Raises:
        ValueError: a smaller factor; when called, a picture that it does not divide.
    """

    factor: int = static()

    def __post_init__(self):
        if self.factor < 2:
            raise ValueError(f"factor is the side of a square of pixels and must be at least 2, got {self.factor}")

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
        f, (size, height, width, channels) = self.factor, x.shape
        if height % f or width % f:
            raise ValueError(f"factor must divide the {height} x {width} pixels of a picture, got {f}; crop or pad it")
        return x.reshape(size, height // f, f, width // f, f, channels).mean((2, 4))

    def adjoint(self, y: Float[Array, "B h w C"]) -> Float[Array, "B H W C"]:
        return jnp.repeat(jnp.repeat(y, self.factor, 1), self.factor, 2) / self.factor**2

    def solve(self, y: Float[Array, "B h w C"], a: Time, b: Time) -> Float[Array, "B h w C"]:
        return scaled(y, 1 / self.factor**2, a, b)
