"""Distances between a set of generated and a set of real features, both arrays of one row an example.

    precision, recall    fraction of fake in the union of the real balls, and the reverse     arXiv 1904.06991, eq. 1
    density              1 / (k M) sum_j sum_i 1[fake_j in ball of real_i]                    arXiv 2002.09797, eq. 3
    coverage             fraction of real balls that hold a fake                              arXiv 2002.09797, eq. 5

The ball of a point is closed and reaches its k-th nearest neighbour in its own set. All sums are in float64 (NumPy):
these are differences of nearly equal numbers, and JAX computes in float32 unless a process says otherwise.

Every figure here depends on the number of samples: compare only sets of equal size.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Array, Float, Real

# Two array arguments name their axes differently so that a mismatch reaches the ValueError below.


def precision_recall(
    real: Real[np.ndarray | Array, "N D"], fake: Real[np.ndarray | Array, "M E"], k: int = 3, *, chunk: int = 256
) -> tuple[float, float]:
    """Fraction of fake points within the real manifold, and of real points within the fake one (arXiv 1904.06991).

    Args:
        real: features, shape (N, D), N > k.
        fake: features, shape (M, D), M > k.
        k: the manifold is the union of balls that reach each point's k-th nearest neighbour.
        chunk: rows whose distances are held at once; changes memory (chunk x max(N, M) numbers), not the result.

    Returns:
        `(precision, recall)`, each in [0, 1].

    Raises:
        ValueError: too few rows for `k`, unequal D, or values that are not finite.
    """
    real, fake = pair(real, fake, _neighbours(k) + 1)
    real_radii, fake_radii = _radii(real, k, chunk), _radii(fake, k, chunk)
    slack = _slack(real, fake)
    precise, recalled = np.zeros(len(fake), bool), np.zeros(len(real), bool)
    for rows, squares in _squares(real, fake, chunk):
        precise |= (squares <= real_radii[rows, None] + slack).any(0)
        recalled[rows] = (squares <= fake_radii + slack).any(1)
    return float(precise.mean()), float(recalled.mean())


def density_coverage(
    real: Real[np.ndarray | Array, "N D"], fake: Real[np.ndarray | Array, "M E"], k: int = 5, *, chunk: int = 256
) -> tuple[float, float]:
    """How many real balls hold a fake point on average, over k, and how many real balls hold any (arXiv 2002.09797).

    For sets from one distribution the expected density is 1 and the expected coverage is
    1 - (N-1)...(N-k) / ((M+N-1)...(M+N-k)), which is near 1 - 2^-k where N = M.

    Args:
        real: features, shape (N, D), N > k.
        fake: features, shape (M, D), M >= 1.
        k: balls reach each real point's k-th nearest real neighbour.
        chunk: rows whose distances are held at once; changes memory, not the result.

    Returns:
        `(density, coverage)`: density is at least 0 and may exceed 1, coverage is in [0, 1].

    Raises:
        ValueError: too few rows for `k`, unequal D, or values that are not finite.
    """
    real, fake = pair(real, fake, _neighbours(k) + 1, 1)
    radii = _radii(real, k, chunk) + _slack(real, fake)
    hits = np.concatenate([(squares <= radii[rows, None]).sum(1) for rows, squares in _squares(real, fake, chunk)])
    return float(hits.sum() / (k * len(fake))), float((hits > 0).mean())


def nearest_distance(
    queries: Real[np.ndarray | Array, "N D"], references: Real[np.ndarray | Array, "M E"], *, chunk: int = 256
) -> Float[np.ndarray, " N"]:
    """Euclidean distance of each query to its nearest reference; exactly 0 where the query is one of them.

    Args:
        queries: shape (N, D), N >= 1.
        references: shape (M, D), M >= 1.
        chunk: queries whose distances are held at once; changes memory, not the result.

    Returns:
        Distances, float64, shape (N,).

    Raises:
        ValueError: an empty set, unequal D, or values that are not finite.
    """
    queries, references = pair(queries, references, 1)
    distances = np.empty(len(queries))
    for rows, squares in _squares(queries, references, chunk):
        # The expanded square finds the neighbour; the distance is computed anew, free of its cancellation.
        nearest = references[squares.argmin(1)]
        distances[rows] = np.sqrt(((queries[rows] - nearest) ** 2).sum(1))
    return distances


def pair(a, b, fewest_a: int, fewest_b: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of features as float64; ValueError unless they fit together and have enough rows."""
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    fewest_b = fewest_a if fewest_b is None else fewest_b
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(
            f"two sets of features need shapes (N, D) and (M, D), got {x.shape} and {y.shape}; flatten them"
        )
    if len(x) < fewest_a or len(y) < fewest_b:
        raise ValueError(f"needed at least {fewest_a} and {fewest_b} rows, got {len(x)} and {len(y)}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("features must be finite, got NaN or infinity; look for the sampler or network they come from")
    return x, y


def _neighbours(k: int) -> int:
    if k < 1:
        raise ValueError(f"k counts neighbours and must be at least 1, got {k}")
    return k


def _squares(rows: np.ndarray, columns: np.ndarray, chunk: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Squared distances of `chunk` rows at a time to all columns, |x|^2 + |y|^2 - 2 x.y about the columns' mean."""
    centre = columns.mean(0)
    columns = columns - centre
    norms = (columns**2).sum(1)
    for start in range(0, len(rows), chunk):
        part = slice(start, min(start + chunk, len(rows)))
        x = rows[part] - centre
        yield part, np.maximum((x**2).sum(1)[:, None] + norms - 2 * x @ columns.T, 0)


def _radii(points: np.ndarray, k: int, chunk: int) -> np.ndarray:
    """Squared distance of each point to its k-th nearest other point."""
    # The point itself is the nearest, at 0, so the k-th other one is number k.
    return np.concatenate([np.partition(squares, k, axis=1)[:, k] for _, squares in _squares(points, points, chunk)])


def _slack(a: np.ndarray, b: np.ndarray) -> float:
    """Rounding error of `_squares`, so that a point exactly on a ball's surface counts in every order of summation."""
    both = max((a**2).sum(1).max(), (b**2).sum(1).max())
    return float(1e-13 * both)
