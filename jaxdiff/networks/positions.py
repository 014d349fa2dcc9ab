"""Positions of tokens in a grid or a sequence: fixed sinusoids to add, or angles for rotary attention. No parameters.

2-D sin-cos (arXiv 2212.09748 after 2010.11929): half of the channels for the row, half for the column, at frequencies
10000^(-i / n). Axial rotary (arXiv 2403.13298): half of the angles row * w_i, half column * w_i, w_i = 100^(-i / n).
Rotary in a sequence (arXiv 2104.09864): place * w_i, w_i = 10000^(-i / n).
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def sincos_2d(height: int, width: int, channels: int) -> Float[Array, "T channels"]:
    """Sinusoids to add to the tokens, row by row: (height * width, channels), channels divisible by 4."""
    table = lambda count: np.concatenate([np.sin(a := _angles(count, channels // 4, 10000)), np.cos(a)], -1)
    return _grid(table(height), table(width))


def rotary_2d(height: int, width: int, head_dim: int) -> Float[Array, "T half"]:
    """Angles in radians, row by row: (height * width, head_dim / 2), head_dim divisible by 4."""
    return _grid(_angles(height, head_dim // 4, 100), _angles(width, head_dim // 4, 100))


def rotary_1d(places: Int[Array, " T"], head_dim: int) -> Float[Array, "T half"]:
    """Angles in radians of places in a sequence, which may be traced: (T, head_dim / 2), head_dim divisible by 2."""
    half = head_dim // 2
    return places[:, None].astype(jnp.float32) * jnp.asarray(10000 ** (-np.arange(half) / half), jnp.float32)


def _angles(count: int, frequencies: int, base: int) -> np.ndarray:
    return np.outer(np.arange(count), base ** (-np.arange(frequencies) / frequencies))


def _grid(rows: np.ndarray, columns: np.ndarray) -> Float[Array, "T C"]:
    # Only the two thin tables are constants of the program; the grid is laid out on the device.
    shape = (len(rows), len(columns), rows.shape[1])
    a = jnp.broadcast_to(jnp.asarray(rows, jnp.float32)[:, None], shape)
    b = jnp.broadcast_to(jnp.asarray(columns, jnp.float32)[None], shape)
    return jnp.concatenate([a, b], -1).reshape(shape[0] * shape[1], -1)
