"""What a device reaches at most in this run: a large matrix product, a convolution, and a copy.

Whatever a network achieves is to be read against these, not against a data sheet: they are measured with the same
library, precision and threads.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.flops import of
from benchmarks.timing import compiled, repeated, spread

ENOUGH, REPEATS = 0.02, 7  # seconds of one call from which on its timing is trusted
SIDES, PICTURES, COPIED = (1024, 2048, 4096, 8192), (8, 32, 128, 512), (2**24, 2**26, 2**28)
SIDE, CHANNELS = 32, 128


def grown(make: Callable[[int], tuple[Callable[[], Any], float]], sizes: tuple[int, ...]) -> float:
    """Work a second of the first size that keeps the device busy for `ENOUGH`, or of the largest."""
    rate = 0.0
    for size in sizes:
        call, work = make(size)
        seconds = spread(repeated(call, REPEATS))["median"]
        rate = work / seconds
        if seconds > ENOUGH:
            break
    return rate


def measure(dtype: str) -> dict[str, float]:
    """`{product, convolution}` in flop/s and `{copy}` in bytes/s, read and written together."""

    def product(side: int) -> tuple[Callable[[], Any], float]:
        a = jnp.ones((side, side), dtype)
        program = compiled(jax.jit(jnp.matmul), a, a)
        return lambda: program.run(a, a), program.flops

    def convolution(count: int) -> tuple[Callable[[], Any], float]:
        x, kernel = jnp.ones((count, SIDE, SIDE, CHANNELS), dtype), jnp.ones((3, 3, CHANNELS, CHANNELS), dtype)
        program = compiled(jax.jit(convolve), x, kernel)
        return lambda: program.run(x, kernel), program.flops

    def copy(count: int) -> tuple[Callable[[], Any], float]:
        x = jnp.zeros(count, jnp.float32)
        program = compiled(jax.jit(lambda x: x + 1), x)
        return lambda: program.run(x), 2.0 * x.nbytes

    makes = {"product": (product, SIDES), "convolution": (convolution, PICTURES), "copy": (copy, COPIED)}
    return {name: grown(make, sizes) for name, (make, sizes) in makes.items()}


def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The convolution that is measured, x (B, H, W, C) by a kernel (h, w, C, c)."""
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def convolution_flops(count: int) -> float:
    """Of the 3 x 3 convolution that is measured, of `count` pictures; for PyTorch, which makes the same one."""
    shapes = (count, SIDE, SIDE, CHANNELS), (3, 3, CHANNELS, CHANNELS)
    return of(convolve, *(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes))
