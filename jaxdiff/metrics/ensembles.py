"""How well several samples of one answer tell it and their own error: the continuous ranked probability score."""

import numpy as np
from jaxtyping import Array, Float, Real


def crps(
    samples: Real[np.ndarray | Array, "S N ..."], truth: Real[np.ndarray | Array, "N ..."]
) -> Float[np.ndarray, "N ..."]:
    """E|X - y| - E|X - X'| / 2 of each number (Gneiting and Raftery, JASA 102, 2007, eq. 21), estimated without bias.

    Least in expectation for samples of the true law; of one certain answer it is the absolute error. Pairs of a sample
    with itself are left out, so that its expectation does not depend on S.

    Args:
        samples: S >= 2 answers, shape (S, N, ...).
        truth: what it was, shape (N, ...).

    Raises:
        ValueError: fewer than 2 samples, or shapes that do not fit.
    """
    x, y = np.asarray(samples, np.float64), np.asarray(truth, np.float64)
    if len(x) < 2 or x.shape[1:] != y.shape:
        raise ValueError(f"needed at least 2 samples of the shape of truth {y.shape}, got {x.shape}")
    count = len(x)
    # sum_ij |x_i - x_j| / 2 = sum_i (2 i - S + 1) x_(i) over the sorted, i from 0.
    weights = (2 * np.arange(count) - count + 1).reshape(-1, *(1,) * y.ndim)
    apart = (weights * np.sort(x, 0)).sum(0) / (count * (count - 1))
    return np.abs(x - y).mean(0) - apart
