"""The Frechet distance of two sets of features, of sets that fit in memory or of streams (arXiv 1706.08500, eq. 6).

|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^{1/2}), the squared 2-Wasserstein distance of two normal laws. Only means and
covariances enter, and those of parts add up to those of the whole (Chan, Golub and LeVeque, 1979, eq. 2.1): each device
or host may keep `Moments` of what it has drawn, batch after batch. All in float64.
"""

import dataclasses

import numpy as np
from jaxtyping import Array, Float, Real


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Moments:
    """Number, mean and scatter of features; `a + b` are those of both sets together.

    Attributes:
        count: rows seen.
        mean: (D,).
        scatter: (D, D), the sum of (x - mean)(x - mean)^T.

    Example:
        >>> whole = sum((Moments.of(np.random.normal(size=(100, 3))) for _ in range(5)), Moments.empty(3))
        >>> whole.count
        500
    """

    count: int
    mean: Float[np.ndarray, " D"]
    scatter: Float[np.ndarray, "D D"]

    @classmethod
    def empty(cls, features: int) -> "Moments":
        return cls(count=0, mean=np.zeros(features), scatter=np.zeros((features, features)))

    @classmethod
    def of(cls, features: Real[np.ndarray | Array, "N D"]) -> "Moments":
        """Of one batch of rows.

        Raises:
            ValueError: no rows, another number of axes, or values that are not finite.
        """
        x = np.asarray(features, np.float64)
        if x.ndim != 2 or not len(x):
            raise ValueError(f"needed features of shape (N, D) with N >= 1, got {list(x.shape)}; flatten them")
        if not np.isfinite(x).all():
            raise ValueError("features must be finite, got NaN or infinity; look for the network they come from")
        mean = x.mean(0)
        return cls(count=len(x), mean=mean, scatter=(x - mean).T @ (x - mean))

    def __add__(self, other: "Moments") -> "Moments":
        if self.mean.shape != other.mean.shape:
            raise ValueError(
                f"needed as many features in both, got {len(self.mean)} and {len(other.mean)}; flatten alike"
            )
        count = self.count + other.count
        if not count:
            return self
        apart = other.mean - self.mean
        between = self.count * other.count / count * np.outer(apart, apart)
        mean = self.mean + apart * (other.count / count)
        return Moments(count=count, mean=mean, scatter=self.scatter + other.scatter + between)

    @property
    def covariance(self) -> Float[np.ndarray, "D D"]:
        """The unbiased one.

        Raises:
            ValueError: fewer than 2 rows.
        """
        if self.count < 2:
            raise ValueError(f"needed at least 2 rows for a covariance, got {self.count}; add more")
        return self.scatter / (self.count - 1)

    def distance(self, other: "Moments") -> float:
        """The Frechet distance, at least 0 (rounding below is removed), in squared units of the features."""
        if self.mean.shape != other.mean.shape:
            raise ValueError(
                f"needed as many features in both, got {len(self.mean)} and {len(other.mean)}; flatten alike"
            )
        a, b = self.covariance, other.covariance
        # (C_a C_b)^{1/2} has the trace of the symmetric (A C_b A)^{1/2}, A = C_a^{1/2}. Its eigenvalues are the
        # singular values of A B, B = C_b^{1/2}, taken directly: rooting eigenvalues of 1e-16 would leave errors of
        # 1e-8.
        root = np.linalg.svd(_root(a) @ _root(b), compute_uv=False).sum()
        distance = np.sum((self.mean - other.mean) ** 2) + np.trace(a) + np.trace(b) - 2 * root
        return float(max(distance, 0.0))


def frechet_distance(a: Real[np.ndarray | Array, "N D"], b: Real[np.ndarray | Array, "M E"]) -> float:
    """The distance of two sets that fit in memory.

    Its expectation for finite sets from one distribution is not 0 but of order (1 / N + 1 / M) D, so a value says
    little without the same figure between two real sets of those sizes.

    Args:
        a: features, shape (N, D), N >= 2; the covariance may be singular.
        b: features, shape (M, D), M >= 2.

    Raises:
        ValueError: fewer than 2 rows, unequal D, or values that are not finite.
    """
    return Moments.of(a).distance(Moments.of(b))


def _root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T  # singular ones have eigenvalues of about -1e-17
