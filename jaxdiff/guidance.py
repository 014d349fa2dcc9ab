"""Guidance: denoisers made from denoisers, and the rules that combine a conditional with an unconditional estimate.

A rule is a frozen pytree `(x, t, c, u) -> x0` of the noisy data, the time, and the two denoised values.
"""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.types import Condition, Denoiser, Scalar, Time, expand, pytree

Rule: TypeAlias = Callable[..., Float[Array, "B ..."]]


@pytree
class scale:
    """u + scale (c - u): 1 is the conditional estimate, 0 the unconditional (arXiv 2207.12598, eq. 6, w = scale - 1).

    Args:
        scale: a number, or one for each sample, shape (B,); may be traced.
    """

    scale: Scalar | Float[Array, " B"] = 1.0

    def __call__(
        self, x: Float[Array, "B ..."], t: Time, c: Float[Array, "B ..."], u: Float[Array, "B ..."]
    ) -> Float[Array, "B ..."]:
        return u + expand(self.scale, x) * (c - u)


@pytree
class ClassifierFree:
    """The denoiser that `classifier_free` makes."""

    denoise: Denoiser
    cond: Condition
    uncond: Condition
    rule: Rule

    def __call__(self, x: Float[Array, "B ..."], t: Time, cond: Condition = None) -> Float[Array, "B ..."]:
        interleave = lambda a, b: jnp.stack([a, b], 1).reshape((-1, *a.shape[1:]))
        pairs = jax.tree.map(lambda c, u: interleave(c, jnp.broadcast_to(u, c.shape)), self.cond, self.uncond)
        clock = jnp.asarray(t)
        if clock.ndim:  # a leading axis of length 1 is a time that the samples share
            clock = jnp.repeat(jnp.broadcast_to(clock, (x.shape[0], *clock.shape[1:])), 2, 0)
        both = self.denoise(jnp.repeat(x, 2, 0), clock, pairs)
        both = both.reshape((x.shape[0], 2, *x.shape[1:]))
        return self.rule(x, t, both[:, 0], both[:, 1])


def classifier_free(denoise: Denoiser, cond: Condition, uncond: Condition, rule: Rule) -> ClassifierFree:
    """Classifier-free guidance in one call of twice the batch (arXiv 2207.12598).

    Samples are interleaved, (c0, u0, c1, u1, ...), so that a batch sharded over devices stays where it is.

    Args:
        denoise: `(x, t, cond) -> x0`.
        cond: conditions with leading batch axis, a pytree.
        uncond: the null condition, same structure; each leaf broadcasts against `cond`'s.
        rule: for instance `guidance.scale(scale=2.0)`.

    Returns:
        A denoiser; each of its calls evaluates the network twice for every sample.
    """
    if jax.tree.structure(cond) != jax.tree.structure(uncond):
        raise ValueError(
            f"cond and uncond must have the same structure, got {jax.tree.structure(cond)} and "
            f"{jax.tree.structure(uncond)}; uncond holds the null value of each condition"
        )
    return ClassifierFree(denoise=denoise, cond=cond, uncond=jax.tree.map(jnp.asarray, uncond), rule=rule)


@pytree
class Conditioned:
    """The denoiser that `condition` makes."""

    denoise: Denoiser
    cond: Condition

    def __call__(self, x: Float[Array, "B ..."], t: Time, cond: Condition = None) -> Float[Array, "B ..."]:
        return self.denoise(x, t, self.cond)


def condition(denoise: Denoiser, cond: Condition) -> Conditioned:
    """Fix the condition of a denoiser without guidance: one evaluation a call."""
    return Conditioned(denoise=denoise, cond=cond)
