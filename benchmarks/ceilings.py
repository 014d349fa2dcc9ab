"""What a device reaches at most in this run: a large matrix product, a convolution, and a copy.

Whatever a network achieves is to be read against these, not against a data sheet: they are measured with the same
library, precision and threads.
"""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from benchmarks.flops import of
from benchmarks.timing import compiled, repeated, spread

ENOUGH, REPEATS = 0.02, 7  # seconds from which on a timing is trusted
SIDES, PICTURES, COPIED = (1024, 2048, 4096, 8192), (8, 32, 128, 512), (2**24, 2**26, 2**28)
SIDE, CHANNELS = 32, 128

Call: TypeAlias = Callable[[], Any]
"""Starts the work and returns its result, which need not be there yet."""


def grown(
    make: Callable[[int], tuple[Call, float]], sizes: tuple[int, ...], seconds: Callable[[Call, int], list[float]]
) -> float:
    """Work a second of the first size that keeps the device busy for `ENOUGH`, or of the largest.

    The largest is then called so often, one call behind the other, that the device is: starting and awaiting a call
    takes a fast one as long as a product does.

    Args:
        make: a size to a call of that size and its work.
        seconds: of each of a number of timed calls, which are waited for.
    """
    *smaller, largest = sizes
    for size in smaller:
        call, work = make(size)
        took = spread(seconds(call, REPEATS))["median"]
        if took > ENOUGH:
            return work / took
    call, work = make(largest)
    calls = math.ceil(ENOUGH / min(seconds(call, REPEATS)))

    def in_a_row() -> Any:
        for _ in range(calls - 1):
            call()
        return call()

    return calls * work / spread(seconds(in_a_row, REPEATS))["median"]


def measure(dtype: str) -> dict[str, float]:
    """`{product, convolution}` of random numbers in flop/s, and `{copy}` in bytes/s, read and written together."""
    draw = lambda *shape: jax.random.normal(jax.random.key(0), shape, dtype)

    def product(side: int) -> tuple[Call, float]:
        a = draw(side, side)
        program = compiled(jax.jit(jnp.matmul), a, a)
        return lambda: program.run(a, a), program.flops

    def convolution(count: int) -> tuple[Call, float]:
        x, kernel = draw(count, SIDE, SIDE, CHANNELS), draw(3, 3, CHANNELS, CHANNELS)
        program = compiled(jax.jit(convolve), x, kernel)
        return lambda: program.run(x, kernel), program.flops

    def copy(count: int) -> tuple[Call, float]:
        x = jnp.zeros(count, jnp.float32)
        program = compiled(jax.jit(lambda x: x + 1), x)
        return lambda: program.run(x), 2.0 * x.nbytes

    makes = {"product": (product, SIDES), "convolution": (convolution, PICTURES), "copy": (copy, COPIED)}
    return {name: grown(make, sizes, repeated) for name, (make, sizes) in makes.items()}


def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The convolution that is measured, x (B, H, W, C) by a kernel (h, w, C, c)."""
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def convolution_flops(count: int) -> float:
    """Of the 3 x 3 convolution that is measured, of `count` pictures; for PyTorch, which makes the same one."""
    shapes = (count, SIDE, SIDE, CHANNELS), (3, 3, CHANNELS, CHANNELS)
    return of(convolve, *(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes))
