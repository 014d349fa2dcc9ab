"""Images as patches and back, and of odd sizes made larger: squares of pixels become channels, without parameters."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def patches(x: Float[Array, "B H W C"], size: int) -> Float[Array, "B T P"]:
    """Cut images into squares of `size` pixels, row by row: T = H W / size^2 tokens of P = size^2 C numbers."""
    count, height, width, channels = x.shape
    x = x.reshape(count, height // size, size, width // size, size, channels).swapaxes(2, 3)
    return x.reshape(count, height * width // size**2, size**2 * channels)


def unpatches(tokens: Float[Array, "B T P"], height: int, width: int, size: int) -> Float[Array, "B H W C"]:
    """The inverse of `patches` for images of height x width pixels."""
    x = tokens.reshape(tokens.shape[0], height // size, width // size, size, size, -1).swapaxes(2, 3)
    return x.reshape(tokens.shape[0], height, width, -1)


def padded(shape: tuple[int, ...], factor: int) -> tuple[int, int]:
    """The smallest height and width that hold `shape` and that `factor` divides.

    Raises:
        ValueError: a factor below 1.
    """
    if factor < 1:
        raise ValueError(f"patch must be at least 1, got {factor}")
    return -(-shape[0] // factor) * factor, -(-shape[1] // factor) * factor


def pad(x: Float[Array, "B H W C"], size: tuple[int, int]) -> Float[Array, "B h w C"]:
    """Repeat the last row and column until x has `size`; cut the result to x's size to undo it."""
    rows, columns = size[0] - x.shape[1], size[1] - x.shape[2]
    return jnp.pad(x, ((0, 0), (0, rows), (0, columns), (0, 0)), mode="edge") if rows or columns else x
