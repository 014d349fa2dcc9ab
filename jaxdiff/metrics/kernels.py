"""Figures of sets of features by kernels: the kernel distance (KID), and the Vendi score of variety."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Array, Float, Real

from jaxdiff.metrics.features import pair

Kernel = Callable[[Float[np.ndarray, "n D"], Float[np.ndarray, "m D"]], Float[np.ndarray, "n m"]]


def cubic(x: Float[np.ndarray, "n D"], y: Float[np.ndarray, "m D"]) -> Float[np.ndarray, "n m"]:
    """(x.y / D + 1)^3, the kernel of KID."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def kernel_distance(
    a: Real[np.ndarray | Array, "N D"],
    b: Real[np.ndarray | Array, "M E"],
    *,
    kernel: Kernel = cubic,
    chunk: int = 1024,
) -> float:
    """Squared maximum mean discrepancy without bias, by default with KID's kernel (arXiv 1801.01401, eq. 4).

    Its expectation is 0 for two sets of one distribution, whatever their sizes, so single values may be negative.

    Args:
        a: features, shape (N, D), N >= 2.
        b: features, shape (M, D), M >= 2.
        kernel: positive definite, on float64 rows.
        chunk: rows whose kernels are held at once; changes memory, not the result.

    Raises:
        ValueError: fewer than 2 rows, unequal D, or values that are not finite.
    """
    x, y = pair(a, b, 2)
    total = lambda u, v: sum(kernel(u[i : i + chunk], v).sum() for i in range(0, len(u), chunk))
    own = lambda u: sum(np.trace(kernel(u[i : i + chunk], u[i : i + chunk])) for i in range(0, len(u), chunk))
    within = lambda u: (total(u, u) - own(u)) / (len(u) * (len(u) - 1))
    return float(within(x) + within(y) - 2 * total(x, y) / (len(x) * len(y)))


def vendi(features: Real[np.ndarray | Array, "N D"], *, kernel: Kernel | None = None) -> float:
    """Vendi score: how many different things a set holds, from 1 to N (arXiv 2210.02410, eq. 2).

    exp of the entropy of the eigenvalues of K / N. It looks at the set alone: noise scores highest, so it belongs
    beside a figure of quality.

    Args:
        features: shape (N, D), N >= 1.
        kernel: with k(x, x) = 1; cosine similarity by default.

    Raises:
        ValueError: no rows, values that are not finite, a row of zeros for the cosine, a kernel with another diagonal.
    """
    x, _ = pair(features, features, 1)
    if kernel is None:
        norms = np.linalg.norm(x, axis=1, keepdims=True)
        if not norms.all():
            raise ValueError("the cosine of a row of zeros is not defined; give a kernel")
        unit = x / norms
        # The eigenvalues that are not 0 are those of the smaller of the two products.
        gram = unit @ unit.T if len(unit) <= unit.shape[1] else unit.T @ unit
    else:
        gram = kernel(x, x)
        if np.abs(np.diag(gram) - 1).max() > 1e-6:
            raise ValueError(f"a kernel of the Vendi score must have k(x, x) = 1, got {gram[0, 0]:g}; normalise it")
    values = np.linalg.eigvalsh(gram / len(x))
    values = values[values > 1e-15]
    return float(np.exp(-(values * np.log(values)).sum()))
