"""PyTorch's layouts in the library's: each function takes the tensors of one layer, `name.weight` and `name.bias`.

Linear (out, in) -> (in, out); convolution (out, in, h, w) -> (h, w, in, out); separate queries, keys and values -> one
kernel, head by head; sinusoids of a step -> sinusoids of the time.
"""

import math

import numpy as np

from experiments.errors import UserError
from experiments.pretrained.tensors import Tensors

TIMESTEPS = 1000
"""Steps of a pretrained model, and what the library's time embedding multiplies t with."""


def linear(tensors: Tensors, name: str) -> dict[str, np.ndarray]:
    return {"kernel": tensors.take(f"{name}.weight", 2).T, "bias": tensors.take(f"{name}.bias", 1)}


def conv(tensors: Tensors, name: str) -> dict[str, np.ndarray]:
    return {
        "kernel": tensors.take(f"{name}.weight", 4).transpose(2, 3, 1, 0),
        "bias": tensors.take(f"{name}.bias", 1),
    }


def pointwise(tensors: Tensors, name: str) -> dict[str, np.ndarray]:
    """A 1 x 1 convolution as the linear map that it is.

    Raises:
        UserError: a larger kernel.
    """
    kernel, bias = conv(tensors, name).values()
    if kernel.shape[:2] != (1, 1):
        raise UserError(f"{name} must be a 1 x 1 convolution, got {kernel.shape[:2]}; the file is another model's")
    return {"kernel": kernel[0, 0], "bias": bias}


def patches(tensors: Tensors, name: str) -> dict[str, np.ndarray]:
    """A convolution with a stride of its own size, as a linear map of squares of pixels: row, column, channel."""
    kernel, bias = conv(tensors, name).values()
    return {"kernel": kernel.reshape(-1, kernel.shape[-1]), "bias": bias}


def norm(tensors: Tensors, name: str) -> dict[str, np.ndarray]:
    return {"scale": tensors.take(f"{name}.weight", 1), "bias": tensors.take(f"{name}.bias", 1)}


def attention(tensors: Tensors, name: str, heads: int) -> dict[str, dict[str, np.ndarray]]:
    """Self-attention from `to_q`, `to_k`, `to_v` and `to_out.0`.

    Raises:
        UserError: queries, keys and values differ in size, or `heads` does not divide it.
    """
    parts = [linear(tensors, f"{name}.to_{part}") for part in "qkv"]
    shapes = {(*part["kernel"].shape, *part["bias"].shape) for part in parts}
    width = parts[0]["kernel"].shape[1]
    if len(shapes) > 1 or width % heads:
        raise UserError(f"{name} must have queries, keys and values of one size and {heads} heads, got {shapes}")
    # (..., heads, head size) three times, joined for each head: q, k, v of the first, then of the second.
    joined = lambda key: np.concatenate(
        [part[key].reshape(*part[key].shape[:-1], heads, width // heads) for part in parts], -1
    )
    whole = {key: joined(key).reshape(*parts[0][key].shape[:-1], 3 * width) for key in ("kernel", "bias")}
    return {"qkv": whole, "out": linear(tensors, f"{name}.to_out.0")}


def max_period(features: int, shift: float) -> float:
    """The period P with P^(-i / n) = 10000^(-i / (n - shift)), n = features / 2: `freq_shift` as the library has it."""
    half = features // 2
    return 10000 ** (half / (half - shift))


def time_kernel(kernel: np.ndarray, period: float, *, cosine_first: bool) -> np.ndarray:
    """The kernel for [cos(1000 t w), sin(1000 t w)] from the one for [sin(k w), cos(k w)], k = 1000 t - 1.

    cos(k w) = cos(1000 t w) cos(w) + sin(1000 t w) sin(w) and sin(k w) = sin(1000 t w) cos(w) - cos(1000 t w) sin(w):
    the offset by one step is a rotation, which is as linear as the kernel.

    Args:
        kernel: shape (features, width), features even.
        period: w_i = period^(-i / n), n = features / 2.
        cosine_first: the given kernel has the rows of the cosines first (`flip_sin_to_cos`).
    """
    half = len(kernel) // 2
    first, last = np.asarray(kernel[:half], np.float64), np.asarray(kernel[half:], np.float64)
    cosine, sine = (first, last) if cosine_first else (last, first)
    w = np.exp(-math.log(period) * np.arange(half) / half)[:, None]
    turned = cosine * np.cos(w) - sine * np.sin(w), cosine * np.sin(w) + sine * np.cos(w)
    return np.concatenate(turned).astype(np.float32)


def time_embedding(tensors: Tensors, name: str, period: float, *, cosine_first: bool) -> dict[str, dict]:
    """The two layers after the sinusoids, `linear_1` and `linear_2`."""
    first, last = linear(tensors, f"{name}.linear_1"), linear(tensors, f"{name}.linear_2")
    return {"first": first | {"kernel": time_kernel(first["kernel"], period, cosine_first=cosine_first)}, "last": last}
