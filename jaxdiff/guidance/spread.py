"""Guidance without overexposure: the guided estimate gets back the spread of the conditional one (arXiv 2305.08891)."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxdiff.guidance.protocol import Rule, active
from jaxdiff.types import Scalar, Time, expand, is_traced, per_sample, pytree


@pytree
class rescale:
    """phi g std(c) / std(g) + (1 - phi) g with g = rule(x, t, c, u) (arXiv 2305.08891, sec. 3.4, eq. 15-16).

    The standard deviations are those of each sample, over all its elements.

    **Not the published numbers.** The paper rescales what its network gives, v; rules see estimates of x0, and so does
    this one. Both agree where alpha = 0, v being -x0 there, and where the rule gives c. Between, v holds the
    noise as well: rescaling it is another correction, and a phi from the paper does not carry over.

    Args:
        rule: the rule whose result is rescaled.
        phi: share of the rescaled estimate in [0, 1], a number or one for each sample; 0 leaves the rule as it is.

    Raises:
        ValueError: a phi that is known and outside [0, 1].
    """

    rule: Rule
    phi: Scalar | Float[Array, " B"] = per_sample(default=0.7)

    def __post_init__(self):
        if not is_traced(self.phi) and not np.all((np.asarray(self.phi) >= 0) & (np.asarray(self.phi) <= 1)):
            raise ValueError(f"phi is the share of the rescaled estimate, from 0 to 1, got {self.phi}")

    def active(self, t: Time) -> bool | Bool[Array, "..."]:
        """Where the wrapped rule needs the second estimate: c has its own spread already."""
        return active(self.rule, t)

    def __call__(
        self, x: Float[Array, "B ..."], t: Time, c: Float[Array, "B ..."], u: Float[Array, "B ..."]
    ) -> Float[Array, "B ..."]:
        guided = self.rule(x, t, c, u)
        axes = tuple(range(1, c.ndim))
        wanted, found = c.var(axes, keepdims=True), guided.var(axes, keepdims=True)
        # A constant sample has no spread to restore; selected before the division, so that gradients stay finite.
        spread = (found > 0) & (wanted > 0)
        ratio = jnp.sqrt(jnp.where(spread, wanted, 1.0) / jnp.where(spread, found, 1.0))
        return guided * (1 + expand(self.phi, c) * (ratio - 1))
