"""Adaptive projected guidance, APG: keep the part of the guidance that does not saturate (arXiv 2410.02416)."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdiff.types import Scalar, Time, expand, is_traced, per_sample, pytree


@pytree
class apg:
    """c + (scale - 1) (d - (1 - eta) d_parallel) (arXiv 2410.02416, alg. 1, without its momentum).

    d = min(1, norm_threshold / |c - u|) (c - u), and d_parallel = <d, c> / <c, c> c is its part along c, which mostly
    adds contrast. Norms and products are those of each sample, over all its elements. With eta = 1 and no threshold
    this is `scale`. For the momentum see `guidance.momentum`.

    Args:
        scale: guidance scale, as in `guidance.scale`.
        eta: share of the parallel part that stays; 0 in the paper.
        norm_threshold: largest norm of c - u, positive and in units of the data; infinity for none. A norm grows like
            the square root of the number of elements, so thresholds do not carry over between resolutions.

    Each is a number or one for each sample, shape (B,); may be traced.

    Raises:
        ValueError: a norm_threshold that is known and not positive.
    """

    scale: Scalar | Float[Array, " B"] = per_sample(default=1.0)
    eta: Scalar | Float[Array, " B"] = per_sample(default=0.0)
    norm_threshold: Scalar | Float[Array, " B"] = per_sample(default=float("inf"))

    def __post_init__(self):
        if not is_traced(self.norm_threshold) and not np.all(np.asarray(self.norm_threshold) > 0):
            raise ValueError(
                f"norm_threshold is the largest norm of c - u and must be positive, got {self.norm_threshold}; "
                'where other code writes 0 for no threshold, use float("inf")'
            )

    def __call__(
        self, x: Float[Array, "B ..."], t: Time, c: Float[Array, "B ..."], u: Float[Array, "B ..."]
    ) -> Float[Array, "B ..."]:
        difference = self._shorten(c - u)
        square = _product(c, c)
        along = _product(difference, c) / jnp.where(square > 0, square, 1.0) * c  # c = 0 has no direction
        return c + (expand(self.scale, c) - 1) * (difference - (1 - expand(self.eta, c)) * along)

    def _shorten(self, difference: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
        # By squares, with every unused operand replaced: finite gradients at c = u, and for an infinite threshold.
        limit, square = expand(self.norm_threshold, difference), _product(difference, difference)
        long = square > limit**2
        return difference * jnp.where(long, limit, 1.0) * jax.lax.rsqrt(jnp.where(long, square, 1.0))


def _product(a: Float[Array, "B ..."], b: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
    """The inner product of each sample, with its axes kept at length 1."""
    return (a * b).sum(tuple(range(1, a.ndim)), keepdims=True)
