"""Denoisers put together: by region of one canvas, by concepts that all hold or do not, by windows of a panorama.

    regions     D = sum_i w_i(place) D_i
    concepts    D = D_u + sum_i s_i (D_i - D_u)          (arXiv 2206.01714, eq. 11 and 12: AND, and NOT for s_i < 0)
    windows     D(place) = mean of the windows over it   (arXiv 2302.08113, eq. 5), see `conditioning.windows`

The product of laws that `concepts` stands for has another score at every noise level but the data's; Langevin steps,
`solvers.PredictorCorrector`, bring samples nearer to it (arXiv 2302.11552).
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdiff.conditioning.windows import Windows, windows
from jaxdiff.types import Condition, Denoiser, Time, as_pytree, per_sample, pytree

__all__ = ["Concepts", "Regions", "Windows", "concepts", "regions", "windows"]


@pytree
class Regions:
    """The denoiser that `regions` makes."""

    parts: tuple[Denoiser, ...]
    weights: Float[Array, "n ..."]

    def __call__(self, x: Float[Array, "B ..."], t: Time, cond: Condition = None) -> Float[Array, "B ..."]:
        weights = self.weights[:, None]
        try:
            jnp.broadcast_shapes(weights.shape[1:], x.shape)
        except ValueError:
            raise ValueError(f"weights {self.weights.shape} do not fit examples of shape {x.shape[1:]}") from None
        return sum(w * part(x, t, cond) for w, part in zip(weights, self.parts, strict=True))  # pyright: ignore


def regions(parts: Sequence[Denoiser], weights: Float[Array, "n ..."]) -> Regions:
    """One denoiser a region: at each place the mean of what they say, by weights of sum 1.

    Each part sees the whole canvas, so that what it makes fits what stands beside it. A call each.

    Args:
        parts: denoisers `(x, t, cond) -> x0`, for example `guidance.classifier_free` of several classes.
        weights: (n, *event), not negative, axes of length 1 are shared; divided by their sum over n here. 0 and 1 are
            hard regions; a ramp between them is a softer seam.

    Raises:
        ValueError: another number of weights than of parts, or a place that no part has.
    """
    weights = jnp.asarray(weights)
    if len(parts) != weights.shape[0] or not parts:
        raise ValueError(f"regions need one array of weights for each denoiser, got {len(parts)} and {weights.shape}")
    total = np.asarray(weights.sum(0))
    if (np.asarray(weights) < 0).any() or not (total > 0).all():
        raise ValueError("weights must not be negative, and some part must have each place; raise one of them there")
    return Regions(parts=tuple(map(as_pytree, parts)), weights=weights / weights.sum(0))


@pytree
class Concepts:
    """The denoiser that `concepts` makes."""

    denoise: Denoiser
    conds: Condition = per_sample()
    uncond: Condition = None
    scales: Float[Array, "*B n"]

    def __call__(self, x: Float[Array, "B ..."], t: Time, cond: Condition = None) -> Float[Array, "B ..."]:
        size, count = x.shape[0], self.scales.shape[-1] + 1
        full = lambda c, u: jnp.concatenate([c, jnp.broadcast_to(u, (size, 1, *c.shape[2:])).astype(c.dtype)], 1)
        both = jax.tree.map(lambda c, u: full(c, u).reshape(size * count, *c.shape[2:]), self.conds, self.uncond)
        repeat = lambda a: jnp.repeat(a, count, 0)
        time = repeat(jnp.asarray(t)) if jnp.ndim(t) and jnp.shape(t)[0] == size else t
        # Estimates of one sample side by side, as `put_in` expects them of what is observed.
        each = self.denoise(repeat(x), time, both).reshape(size, count, *x.shape[1:])
        known, plain = each[:, :-1], each[:, -1]
        scales = self.scales.reshape(-1, count - 1, *(1,) * (x.ndim - 1))
        return plain + (scales * (known - plain[:, None])).sum(1)


def concepts(
    denoise: Denoiser, conds: Any, uncond: Any, scales: Sequence[float | int] | Float[Array, "*B n"]
) -> Concepts:
    """Several conditions at once: each pulls with its scale, a negative one pushes away (arXiv 2206.01714).

    One call on n + 1 copies of the batch.

    Args:
        denoise: `(x, t, cond) -> x0`, trained with dropped conditions.
        conds: n conditions for each sample, a pytree with leading axes (B, n).
        uncond: the null condition, a pytree like one condition, without axes of batch and n.
        scales: (n,), or (B, n) for each sample its own; may be traced. 0 leaves a condition out.

    Raises:
        ValueError: another number of scales than of conditions.
    """
    strengths = jnp.asarray(scales, jnp.float32)
    shapes = {jnp.shape(c)[1] if jnp.ndim(c) > 1 else None for c in jax.tree.leaves(conds)}
    count = strengths.shape[-1] if strengths.ndim else 0
    if strengths.ndim not in (1, 2) or shapes != {count}:
        raise ValueError(
            f"conds must have leading axes (B, n) with one scale for each of the n, got {count} "
            f"scales and shapes {[jnp.shape(c) for c in jax.tree.leaves(conds)]}"
        )
    uncond = jax.tree.map(jnp.asarray, uncond)
    return Concepts(denoise=as_pytree(denoise), conds=conds, uncond=uncond, scales=strengths)
