"""How near pictures are to given ones: PSNR and SSIM of each picture of a batch."""

import numpy as np
from jaxtyping import Array, Float, Real

_SIDE, _STD = 11, 1.5


def psnr(
    x: Real[np.ndarray | Array, "N ..."], truth: Real[np.ndarray | Array, "N ..."], *, span: float | int = 1.0
) -> Float[np.ndarray, " N"]:
    """10 log10(span^2 / mean squared error) of each picture, in decibels; infinite for equal ones.

    Args:
        x, truth: pictures, shape (N, ...), compared as they are: nothing is clipped.
        span: from black to white; 2 for pictures in [-1, 1], 255 for bytes.

    Raises:
        ValueError: different shapes, or a span that is not positive.
    """
    a, b = _both(x, truth, span)
    error = ((a - b) ** 2).reshape(len(a), -1).mean(1)
    with np.errstate(divide="ignore"):
        return 10 * np.log10(span**2 / error)


def ssim(
    x: Real[np.ndarray | Array, "N H W C"], truth: Real[np.ndarray | Array, "N H W C"], *, span: float | int = 1.0
) -> Float[np.ndarray, " N"]:
    """Structural similarity of each picture, in [-1, 1] (Wang et al., IEEE TIP 13(4), 2004, eq. 13).

    A Gaussian window of 11 pixels and standard deviation 1.5, K1 = 0.01, K2 = 0.03, the mean over places where the
    window lies inside the picture, and over channels.

    Args:
        x, truth: pictures, shape (N, H, W, C), H and W at least 11.
        span: as for `psnr`.

    Raises:
        ValueError: different shapes, pictures smaller than the window, or a span that is not positive.
    """
    a, b = _both(x, truth, span)
    if a.ndim != 4 or min(a.shape[1:3]) < _SIDE:
        raise ValueError(f"ssim needs pictures (N, H, W, C) of at least {_SIDE} x {_SIDE} pixels, got {a.shape}")
    reach = np.arange(_SIDE) - _SIDE // 2
    row = np.exp(-0.5 * (reach / _STD) ** 2)
    row /= row.sum()

    def local(z: np.ndarray) -> np.ndarray:
        """Weighted means over windows, first down, then across."""
        for axis in (1, 2):
            z = np.lib.stride_tricks.sliding_window_view(z, _SIDE, axis) @ row
        return z

    mean_a, mean_b = local(a), local(b)
    var_a, var_b, cov = local(a * a) - mean_a**2, local(b * b) - mean_b**2, local(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    value = (2 * mean_a * mean_b + c1) * (2 * cov + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return value.mean((1, 2, 3))


def _both(x, truth, span: float | int) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(x, np.float64), np.asarray(truth, np.float64)
    if a.shape != b.shape or a.ndim < 2:
        raise ValueError(f"pictures are compared one by one, so both need one shape, got {a.shape} and {b.shape}")
    if not span > 0:
        raise ValueError(f"span is the distance from black to white and must be positive, got {span}")
    return a, b
