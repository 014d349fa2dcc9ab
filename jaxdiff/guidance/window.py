"""Guidance in a limited interval of noise levels, and none outside (arXiv 2404.07724)."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped

from jaxdiff.guidance.protocol import Rule, active
from jaxdiff.types import Scalar, Time, expand, is_traced, pytree


@pytree
class interval:
    """The wrapped rule where low <= t <= high, the conditional estimate alone elsewhere (arXiv 2404.07724).

    The paper bounds the noise level sigma of a schedule with alpha = 1; here the bounds are times, both included.
    `schedule.inverse(-2 * log(sigma))` is the time of the paper's sigma, on any schedule. Outside, at a scalar t,
    `classifier_free` evaluates the network on half as many rows.

    Args:
        rule: what to do inside.
        low, high: times, 0 <= low <= high <= 1; may be traced.

    Raises:
        ValueError: bounds that are known and out of order or outside [0, 1].
    """

    rule: Rule
    low: Scalar = 0.0
    high: Scalar = 1.0

    def __post_init__(self):
        if is_traced((self.low, self.high)):
            return
        low, high = np.asarray(self.low), np.asarray(self.high)
        if not np.all((low >= 0) & (low <= high) & (high <= 1)):
            raise ValueError(
                f"interval needs times 0 <= low <= high <= 1 (0 = data, 1 = noise), got low = {self.low} and "
                f"high = {self.high}; the time of a noise level is schedule.inverse(2 * log(alpha / sigma))"
            )

    def active(self, t: Time) -> Bool[Array, "..."]:
        """Whether t lies inside, and inside the intervals of the wrapped rule."""
        return self._inside(t) & active(self.rule, t)

    def __call__(
        self, x: Shaped[Array, "B ..."], t: Time, c: Float[Array, "B ..."], u: Float[Array, "B ..."]
    ) -> Float[Array, "B ..."]:
        return jnp.where(expand(self._inside(t), c), self.rule(x, t, c, u), c)

    def _inside(self, t: Time) -> Bool[Array, "..."]:
        return (self.low <= jnp.asarray(t)) & (jnp.asarray(t) <= self.high)
