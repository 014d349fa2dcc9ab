"""Floating-point operations of a traced function: those of its matrix products and convolutions, two a multiply-add.

Counted from what was traced and not by a compiler: GPUs' do not see into a library's kernels, such as cuDNN's.
Everything else that a network does is a few operations a number, and bound by memory.
"""

import math
from typing import Any

import jax
import numpy as np
from jax.extend import core


def flops(jaxpr: Any) -> float:
    """Of one call. A loop counts as often as it runs, once where that is known at run time alone; a branch at its most.

    Args:
        jaxpr: of `jax.make_jaxpr(f)(...)`, or `.jaxpr` of `jax.jit(f).trace(...)`.
    """
    return float(sum(_of(equation) for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns))


def _of(equation: Any) -> float:
    name, inputs, params = equation.primitive.name, [v.aval.shape for v in equation.invars], equation.params
    size = math.prod(equation.outvars[0].aval.shape) if equation.outvars else 0
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        return 2.0 * size * math.prod(inputs[0][axis] for axis in contracted)
    if name == "conv_general_dilated":
        return _convolution(inputs, equation.outvars[0].aval.shape, params)
    if name.startswith("dot_product_attention_"):  # cuDNN's: two products forwards; five back, one of them again
        (batch, queries, heads, width), keys = inputs[0], inputs[1][1]
        return (4.0 if "fwd" in name else 10.0) * batch * heads * queries * keys * width
    if name == "cond":
        return max(flops(branch) for branch in params["branches"])
    inner = [jaxpr for value in params.values() for jaxpr in _jaxprs(value)]
    return params.get("length", 1) * sum(map(flops, inner)) if name == "scan" else sum(map(flops, inner))


def _convolution(inputs: list[Any], result: Any, params: Any) -> float:
    """Taps that fall on a pixel: none on padding, and none between pixels that a gradient has spread out."""
    left, right, out = params["dimension_numbers"]
    taps = result[out[0]] * result[out[1]] * inputs[1][right[1]]  # examples, features out, features in of a group
    for axis, stride in enumerate(params["window_strides"], start=2):
        apart, spread = params["rhs_dilation"][axis - 2], params["lhs_dilation"][axis - 2]
        place = np.arange(result[out[axis]])[:, None] * stride + np.arange(inputs[1][right[axis]]) * apart
        place = place - params["padding"][axis - 2][0]
        inside = (place >= 0) & (place <= (inputs[0][left[axis]] - 1) * spread) & (place % spread == 0)
        taps *= int(inside.sum())
    return 2.0 * taps


def _jaxprs(value: Any) -> list[Any]:
    values = value if isinstance(value, tuple | list) else (value,)
    return [v for v in values if isinstance(v, core.Jaxpr | core.ClosedJaxpr)]


def of(function: Any, *args: Any, **kwargs: Any) -> float:
    """`flops` of one call of `function` with arrays or `jax.ShapeDtypeStruct`s."""
    return flops(jax.make_jaxpr(function)(*args, **kwargs))
