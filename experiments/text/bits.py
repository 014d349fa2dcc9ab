"""Analog bits (arXiv 2208.04202): a token as the binary digits of its number, each -1 or 1, for Gaussian diffusion.

A token of K has ceil(log2 K) bits, the lowest first. A sample's bit is 1 where its number is positive; the patterns
from K on stand for no token.
"""

import numpy as np


def bits_of(size: int) -> int:
    """How many bits a token of `size` values takes."""
    return max(1, (size - 1).bit_length())


def to_bits(tokens: np.ndarray, size: int) -> np.ndarray:
    """float32 (..., bits) of -1 and 1 from integers (...) in [0, size)."""
    digits = np.asarray(tokens)[..., None] >> np.arange(bits_of(size)) & 1
    return (2 * digits - 1).astype(np.float32)


def from_bits(bits: np.ndarray) -> np.ndarray:
    """int32 (...) from real numbers (..., bits); may exceed the number of tokens where bits are wrong."""
    return ((np.asarray(bits) > 0) << np.arange(bits.shape[-1])).sum(-1).astype(np.int32)
