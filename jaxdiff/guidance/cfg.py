"""Classifier-free guidance: one network, with and without its condition, in one call (arXiv 2207.12598)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from jaxdiff.guidance.protocol import Rule, active
from jaxdiff.types import Condition, Denoiser, Time, as_pytree, per_sample, pytree


@pytree
class ClassifierFree:
    """The denoiser that `classifier_free` makes."""

    denoise: Denoiser
    cond: Condition = per_sample()
    uncond: Condition = per_sample()
    rule: Rule

    def __call__(self, x: Shaped[Array, "B ..."], t: Time, cond: Condition = None) -> Float[Array, "B ..."]:
        return self.rule(x, t, *self.pair(x, t))

    def pair(self, x: Shaped[Array, "B ..."], t: Time) -> tuple[Float[Array, "B ..."], Float[Array, "B ..."]]:
        """The conditional and the unconditional estimate.

        At a scalar t outside the rule's interval the network sees the B conditional rows alone, and the unconditional
        estimate is the conditional one. Times of each sample do not skip anything; there the rule selects.
        """
        needed = active(self.rule, t)
        if needed is True or jnp.ndim(needed):
            return self._both(x, t)
        return jax.lax.cond(needed, lambda: self._both(x, t), lambda: (self.denoise(x, t, self.cond),) * 2)

    def _both(self, x: Shaped[Array, "B ..."], t: Time) -> tuple[Float[Array, "B ..."], Float[Array, "B ..."]]:
        interleave = lambda a, b: jnp.stack([a, b], 1).reshape((-1, *a.shape[1:]))
        pairs = jax.tree.map(interleave, self.cond, self.uncond)
        clock = jnp.asarray(t)
        if clock.ndim:  # a leading axis of length 1 is a time that the samples share
            clock = jnp.repeat(jnp.broadcast_to(clock, (x.shape[0], *clock.shape[1:])), 2, 0)
        both = self.denoise(jnp.repeat(x, 2, 0), clock, pairs)
        both = both.reshape((x.shape[0], 2, *both.shape[1:]))
        return both[:, 0], both[:, 1]


def classifier_free(denoise: Denoiser, cond: Condition, uncond: Condition, rule: Rule) -> ClassifierFree:
    """Classifier-free guidance in one call of twice the batch (arXiv 2207.12598).

    Samples are interleaved, (c0, u0, c1, u1, ...), so that a batch sharded over devices stays where it is.

    Args:
        denoise: `(x, t, cond) -> x0`.
        cond: conditions with leading batch axis, a pytree.
        uncond: the null condition, same structure; each leaf broadcasts against `cond`'s.
        rule: `(x, t, c, u) -> x0`, for instance `guidance.scale(scale=2.0)`.

    Returns:
        A denoiser; each of its calls evaluates the network twice for every sample, or once where the rule is an
        `interval` and the solver's time lies outside.

    Raises:
        ValueError: cond and uncond of different structure.
    """
    if jax.tree.structure(cond) != jax.tree.structure(uncond):
        raise ValueError(
            f"cond and uncond must have the same structure, got {jax.tree.structure(cond)} and "
            f"{jax.tree.structure(uncond)}; uncond holds the null value of each condition"
        )
    uncond = jax.tree.map(lambda c, u: jnp.broadcast_to(u, jnp.shape(c)), cond, uncond)
    return ClassifierFree(denoise=as_pytree(denoise), cond=cond, uncond=uncond, rule=as_pytree(rule))
