"""The line through both estimates (arXiv 2207.12598)."""

from jaxtyping import Array, Float, Shaped

from jaxdiff.types import Scalar, Time, expand, per_sample, pytree


@pytree
class scale:
    """u + scale (c - u): 1 is the conditional estimate, 0 the unconditional (arXiv 2207.12598, eq. 6, w = scale - 1).

    Args:
        scale: a number, or one for each sample, shape (B,); may be traced.
    """

    scale: Scalar | Float[Array, " B"] = per_sample(default=1.0)

    def __call__(
        self, x: Shaped[Array, "B ..."], t: Time, c: Float[Array, "B ..."], u: Float[Array, "B ..."]
    ) -> Float[Array, "B ..."]:
        return u + expand(self.scale, c) * (c - u)
