"""Linear maps and convolutions with float32 parameters and a chosen compute dtype.

Kernels are Glorot-uniform (variance 2 / (fan_in + fan_out)) as in arXiv 2006.11239, or zero, which makes a
residual branch the identity and a network's output zero at the start of training; biases are zero.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxdiff.networks.convolution import convolve


def _kernel(shape: tuple[int, ...], zero: bool, rngs: nnx.Rngs) -> nnx.Param:
    if zero:
        return nnx.Param(jnp.zeros(shape))
    limit = math.sqrt(6 / (math.prod(shape[:-2]) * (shape[-2] + shape[-1])))
    # Drawn flat: the same numbers, but XLA compiles a draw of four axes 5x slower, and a U-Net has a hundred.
    draw = jax.random.uniform(rngs.params(), (math.prod(shape),), minval=-limit, maxval=limit)
    return nnx.Param(draw.reshape(shape))


class Linear(nnx.Module):
    """`x @ kernel + bias` over the last axis, in `dtype`."""

    def __init__(
        self, inputs: int, outputs: int, *, zero: bool = False, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs
    ):
        self.dtype = jnp.dtype(dtype)
        self.kernel = _kernel((inputs, outputs), zero, rngs)
        self.bias = nnx.Param(jnp.zeros(outputs))

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        kernel, bias = self.kernel[...].astype(self.dtype), self.bias[...].astype(self.dtype)
        # Two dimensions: XLA on CPU is 1.6x slower on the gradient of a product with several batch axes.
        rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1]).astype(self.dtype)
        return (rows @ kernel + bias).reshape(*x.shape[:-1], kernel.shape[1])


class Conv(nnx.Module):
    """3x3 convolution, channels last, the size kept (or halved by `stride=2`), in `dtype`.

    With stride 2 its windows stand on pixels 1, 3, ... of the map (arXiv 2006.11239), or, `centred`, on 0, 2, ....
    Beyond the edges lie zeros; with `circular` the left and the right edge are neighbours, as in a panorama.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        stride: int = 1,
        centred: bool = False,
        circular: bool = False,
        zero: bool = False,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.dtype = jnp.dtype(dtype)
        self.stride, self.centred, self.circular = stride, centred, circular
        self.kernel = _kernel((3, 3, inputs, outputs), zero, rngs)
        self.bias = nnx.Param(jnp.zeros(outputs))

    def __call__(self, x: Float[Array, "B H W inputs"]) -> Float[Array, "B h w outputs"]:
        kernel, bias = self.kernel[...].astype(self.dtype), self.bias[...].astype(self.dtype)
        strides, x = (self.stride, self.stride), x.astype(self.dtype)
        edges = [(1, 1), (1, 1)]
        if not self.centred:
            edges = jax.lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, "SAME")
        if self.circular:
            x, edges[1] = jnp.pad(x, ((0, 0), (0, 0), edges[1], (0, 0)), mode="wrap"), (0, 0)
        return convolve(x, kernel, strides, edges) + bias
