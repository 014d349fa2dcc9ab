"""Convolution whose gradients are fast on CPUs too, in loops and outside.

XLA's CPU compiler has a fast convolution for channels last (NHWC) and kernels (h, w, in, out), and rewrites others to
that form, but not inside of loops. JAX writes both gradients of a convolution in other forms, and in a loop that of the
kernel takes a hundred times as long, that of the input four to ten times. Here both are written in the fast form, what
has to be transposed being transposed before. In exchange, forward mode in a loop is as slow as reverse mode was.

The gradient of the kernel is a product over all pixels of a batch. Summed over slices of the batch whose part of the
gradient fits a core's cache, it takes a third of the time.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

LAYOUT = ("NHWC", "HWIO", "NHWC")
CACHE = 2**20  # bytes; half of an L2 cache or less
Padding = tuple[tuple[int, int], tuple[int, int]]


def convolve(
    x: Float[Array, "B H W inputs"],
    kernel: Float[Array, "kh kw inputs outputs"],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
) -> Float[Array, "B h w outputs"]:
    """`jax.lax.conv_general_dilated`, channels last; on a CPU with gradients of its own, in both modes and any order.

    Args:
        x: B pictures.
        kernel: in the dtype of x.
        strides: of height and width.
        padding: zeros before and after, for height and width; h = (H + before + after - kh) // stride + 1, and so w.

    Raises:
        ValueError: x and the kernel have other numbers of input channels.
        TypeError: they have other dtypes.
    """
    strides, (height, width) = tuple(strides), padding
    if jax.default_backend() != "cpu":
        return _plain(x, kernel, strides, padding)
    return _convolve(x, kernel, strides, (tuple(height), tuple(width)))


def _plain(x: Any, kernel: Any, strides: Sequence[int], padding: Any, **options: Any) -> Array:
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=LAYOUT, **options)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _convolve(x: Array, kernel: Array, strides: tuple[int, int], padding: Padding) -> Array:
    return _plain(x, kernel, strides, padding)


def _jvp(strides: tuple[int, int], padding: Padding, primals: Any, tangents: Any) -> tuple[Array, Array]:
    """The tangent is linear in both tangents, and written as the transpose of a gradient: its transpose is that one."""
    (x, kernel), (dx, dkernel) = primals, tangents
    y = _convolve(x, kernel, strides, padding)

    def transposed(gradient: Callable[[Array], Array], tangent: Array) -> Array:
        # In `shard_map` pictures may differ among devices where kernels do not; gradients are of y's kind.
        one = jnp.ones_like(y, shape=())
        return jax.linear_transpose(gradient, y)(tangent * one)[0]

    parts = []
    if not isinstance(dx, SymbolicZero):
        parts.append(transposed(lambda dy: _gradient_of_x(dy, kernel, x.shape, strides, padding), dx))
    if not isinstance(dkernel, SymbolicZero):
        parts.append(transposed(lambda dy: _gradient_of_kernel(x, dy, kernel.shape, strides, padding), dkernel))
    return y, functools.reduce(jnp.add, parts) if parts else jnp.zeros_like(y)


_convolve.defjvp(_jvp, symbolic_zeros=True)


def _gradient_of_x(
    dy: Array, kernel: Array, shape: tuple[int, ...], strides: tuple[int, int], padding: Padding
) -> Array:
    """Of pictures of `shape`: the convolution of dy, spread out by the strides, with the kernel turned round."""
    sides = zip(shape[1:3], dy.shape[1:3], kernel.shape[:2], strides, padding, strict=True)
    edges = [(k - 1 - low, size - 1 - (out - 1) * stride + low) for size, out, k, stride, (low, _) in sides]
    return _plain(dy, kernel[::-1, ::-1].swapaxes(2, 3), (1, 1), edges, lhs_dilation=strides)


def _gradient_of_kernel(
    x: Array, dy: Array, shape: tuple[int, ...], strides: tuple[int, int], padding: Padding
) -> Array:
    """Of a kernel of `shape`: the convolution of x with dy, spread out by the strides; batch and channels swapped."""
    sides = zip(x.shape[1:3], dy.shape[1:3], shape[:2], strides, padding, strict=True)
    edges = [(low, k + (out - 1) * stride - size - low) for size, out, k, stride, (low, _) in sides]

    def of(x: Array, dy: Array) -> Array:
        x, dy = x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3)
        return _plain(x, dy, (1, 1), edges, rhs_dilation=strides).transpose(1, 2, 0, 3)

    precise, batch = jnp.promote_types(dy.dtype, jnp.float32), x.shape[0]
    size = _size_of_slices(batch, dy.size * precise.itemsize)
    if size == batch:
        return of(x, dy)
    count = batch // size
    x, dy = (a.reshape(size, count, *a.shape[1:]) for a in (x, dy))
    part = lambda i: of(*(jax.lax.dynamic_index_in_dim(a, i, 1, keepdims=False).astype(precise) for a in (x, dy)))
    total, _ = jax.lax.scan(lambda total, i: (total + part(i), None), part(0), jnp.arange(1, count))
    return total.astype(dy.dtype)


def _size_of_slices(batch: int, total: int) -> int:
    """Examples in a slice, as many as fit `CACHE` of a batch of `total` bytes; a divisor of the batch.

    It is a multiple of the devices: of a batch that is divided among them each then has its part of each slice.
    """
    devices = jax.device_count()
    sizes = [size for size in range(devices, batch, devices) if batch % size == 0]
    fitting = [size for size in [*sizes, batch] if size * total <= CACHE * batch]
    return max(fitting, default=min(sizes, default=batch))
