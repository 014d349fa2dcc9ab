"""Gaussians seen through a matrix: the law of x given y = A x + noise_std z, for x ~ N(m, C) and z ~ N(0, I).

With C = L L' and the singular values b of A L = U diag(b) V'

    p(y)        = N(A m, U diag(b^2 + noise_std^2) U')
    E[x | y]    = m + L V diag(b / (b^2 + noise_std^2)) U' (y - A m)
    Cov[x | y]  = R R',    R = L V diag(noise_std / sqrt(b^2 + noise_std^2)),

where b counts as 0 in directions that A does not see. This is the textbook C - C A' (A C A' + noise_std^2 I)^{-1} A C
(Bishop 2006, eq. 2.115 and 2.117, for a general matrix) without its difference of nearly equal matrices: a small
posterior variance keeps its digits, none is negative, and noise_std = 0 is no special case.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdiff.types import Scalar, is_traced

Numbers = Float[Array, "..."] | Float[np.ndarray, "..."]


def square_root(covariances: Numbers) -> Float[Array, "... D D"]:
    """L with L L' = C, of symmetric positive semi-definite matrices (..., D, D), singular ones too."""
    variances, axes = spectrum(covariances)
    return axes * jnp.sqrt(variances)[..., None, :]


def spectrum(covariances: Numbers) -> tuple[Float[Array, "... D"], Float[Array, "... D D"]]:
    """Eigenvalues (ascending) and eigenvectors (columns) of covariances; a value below zero is rounding, and is 0."""
    variances, axes = jnp.linalg.eigh(covariances)
    return jnp.maximum(variances, 0.0), axes


def condition(
    means: Numbers, covariances: Numbers, matrix: Float[Array, "M D"], y: Float[Array, " M"], noise_std: Scalar
) -> tuple[Float[Array, "K D"], Float[Array, "K D D"], Float[Array, " K"]]:
    """Posterior means, covariances and log p(y) of each of K Gaussians with means (K, D) and covariances (K, D, D).

    Raises:
        ValueError: noise_std = 0 where A C A' is singular, so that y has no density (checked where values are known).
    """
    (m, d), root = matrix.shape, square_root(covariances)
    u, b, v = jnp.linalg.svd(matrix @ root)  # (K, M, M), (K, min(M, D)), (K, D, D)
    if not is_traced((b, noise_std)) and noise_std == 0:
        smallest = jnp.where(m > d, 0.0, b.min(1) / b.max(1))
        if not (smallest > max(m, d) * np.finfo(b.dtype).eps).all():
            raise ValueError(
                "noise_std = 0 needs A C A' of full rank for each component, but A has dependent rows (or more rows "
                f"than columns), or sees a direction without variance: A has shape {matrix.shape}, the smallest ratio "
                f"of singular values of A C^(1/2) is {float(smallest.min()):.1e}; drop rows or give noise_std > 0"
            )
    innovation = jnp.einsum("kji,kj->ki", u, y - means @ matrix.T)
    variance = noise_std**2 + _pad(b, m) ** 2
    log_evidence = -0.5 * (innovation**2 / variance + jnp.log(2 * jnp.pi * variance)).sum(1)
    rank = b.shape[1]
    gain = b / (b**2 + noise_std**2) * innovation[:, :rank]
    seen = noise_std / jnp.sqrt(b**2 + noise_std**2)
    turned = jnp.einsum("kij,klj->kil", root, v)  # L V
    remaining = turned * jnp.concatenate([seen, jnp.ones_like(seen, shape=(len(seen), d - rank))], 1)[:, None, :]
    return (
        jnp.asarray(means) + jnp.einsum("kij,kj->ki", turned[:, :, :rank], gain),
        jnp.einsum("kij,klj->kil", remaining, remaining),
        log_evidence,
    )


def _pad(b: Float[Array, "K R"], size: int) -> Float[Array, "K M"]:
    return jnp.pad(b, ((0, 0), (0, size - b.shape[1])))
