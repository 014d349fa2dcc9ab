"""Dynamic thresholding: pull saturated elements of the denoised value back into range (arXiv 2205.11487, sec. 2.3)."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdiff.types import Condition, Denoiser, Scalar, Time, as_pytree, expand, is_traced, per_sample, pytree


@pytree
class Thresholded:
    """The denoiser that `dynamic_threshold` makes."""

    denoise: Denoiser
    quantile: Scalar | Float[Array, " B"] = per_sample()
    limit: Scalar | Float[Array, " B"] = per_sample()

    def __call__(self, x: Float[Array, "B ..."], t: Time, cond: Condition = None) -> Float[Array, "B ..."]:
        x0 = self.denoise(x, t, cond)
        magnitudes = jnp.abs(x0).reshape(x0.shape[0], -1)
        quantiles = jnp.broadcast_to(jnp.asarray(self.quantile, x0.dtype), x0.shape[:1])
        limit = expand(self.limit, x0)
        bound = jnp.maximum(expand(jax.vmap(jnp.quantile)(magnitudes, quantiles), x0), limit)
        clipped = jnp.clip(x0, -bound, bound) * (limit / bound)
        return jnp.where(expand(jnp.asarray(t) == 0, x0), x0, clipped)


def dynamic_threshold(
    denoise: Denoiser, quantile: Scalar | Float[Array, " B"] = 0.995, limit: Scalar | Float[Array, " B"] = 1.0
) -> Thresholded:
    """clip(x0, -s, s) limit / s with s = max(quantile of |x0|, limit) (arXiv 2205.11487, sec. 2.3).

    s is each sample's own, over all its elements. A sample whose quantile lies within the limit is only clipped to it.
    At t = 0 the data are returned as they are, like by every denoiser. Put it outside of guidance, which is what leaves
    the range; in a latent space without a fixed range it has no meaning.

    Args:
        denoise: `(x, t, cond) -> x0`.
        quantile: in [0, 1], not a percentile: 0.995 for the 99.5th.
        limit: the largest magnitude of the data, positive; 1 for data in [-1, 1].

    Both are a number or one for each sample, shape (B,); may be traced.

    Returns:
        A denoiser whose values lie in [-limit, limit] for t > 0.

    Raises:
        ValueError: a known quantile outside [0, 1], or a known limit that is not positive.
    """
    if not is_traced(quantile) and not np.all((np.asarray(quantile) >= 0) & (np.asarray(quantile) <= 1)):
        raise ValueError(f"quantile must be in [0, 1], got {quantile}; the 99.5th percentile is quantile=0.995")
    if not is_traced(limit) and not np.all(np.asarray(limit) > 0):
        raise ValueError(f"limit is the largest magnitude of the data and must be positive, got {limit}")
    return Thresholded(denoise=as_pytree(denoise), quantile=quantile, limit=limit)
