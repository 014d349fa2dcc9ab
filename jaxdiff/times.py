"""Training times: `times(key, index, size) -> t`, one time in (0, 1) for each example of a batch.

A law of times is a quantile function of uniform numbers; a *draw* says how the uniform numbers of one batch hang
together. Every draw depends only on the step's key and on an example's index, so the times of a batch do not depend
on how it is laid out over devices and hosts.
"""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxdiff.types import Scalar, Schedule, pytree, static

Draw: TypeAlias = Callable[[Key[Array, ""], Int[Array, " B"], int], Float[Array, " B"]]

_OPEN = 2.0**-24  # half the spacing of jax.random.uniform in float32: moves [0, 1) inside (0, 1)


def _inside(t: Float[Array, " B"]) -> Float[Array, " B"]:
    """Rounding may carry a number of (0, 1) to its ends; this puts it back."""
    return jnp.clip(t, _OPEN, 1 - _OPEN)


def independent(key: Key[Array, ""], index: Int[Array, " B"], size: int) -> Float[Array, " B"]:
    """One uniform number an example, independent of the others."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)
    return _inside(jax.vmap(jax.random.uniform)(keys) + _OPEN)


def stratified(key: Key[Array, ""], index: Int[Array, " B"], size: int) -> Float[Array, " B"]:
    """One shared offset, then equal spacing over the batch: lower variance of the loss (arXiv 2107.00630, app. I.1)."""
    shift = jax.random.uniform(key)
    # index mod size is exact in integers; the sum is wrapped once, in a number that float32 resolves.
    u = (index % size).astype(jnp.float32) / size + shift
    return _inside(u - jnp.floor(u))


def antithetic(key: Key[Array, ""], index: Int[Array, " B"], size: int) -> Float[Array, " B"]:
    """Pairs (u, 1 - u) of neighbouring examples."""
    u = independent(key, index // 2, size)
    return jnp.where(index % 2 == 0, u, 1 - u)


@pytree
class uniform:
    """Uniform on (low, high).

    Args:
        low, high: bounds in [0, 1].
        draw: `independent`, `stratified` or `antithetic`.
    """

    low: Scalar = 0.0
    high: Scalar = 1.0
    draw: Draw = static(default=stratified)

    def __call__(self, key: Key[Array, ""], index: Int[Array, " B"], size: int) -> Float[Array, " B"]:
        return _inside(self.low + (self.high - self.low) * self.draw(key, index, size))


@pytree
class logit_normal:
    """sigmoid(mean + std z) with z standard normal: dense in the middle (arXiv 2403.03206, eq. 19).

    Args:
        mean, std: of the logit of t; std > 0.
        draw: how the uniform numbers behind z are drawn.
    """

    mean: Scalar = 0.0
    std: Scalar = 1.0
    draw: Draw = static(default=stratified)

    def __call__(self, key: Key[Array, ""], index: Int[Array, " B"], size: int) -> Float[Array, " B"]:
        return _inside(jax.nn.sigmoid(self.mean + self.std * jax.scipy.special.ndtri(self.draw(key, index, size))))


@pytree
class edm:
    """EDM's log-normal noise scale: log(sigma / alpha) is normal (arXiv 2206.00364, table 1, "training").

    Args:
        schedule: turns the noise scale into a time.
        mean, std: of log(sigma / alpha), for data of standard deviation 0.5.
        draw: how the uniform numbers behind the normal are drawn.
    """

    schedule: Schedule
    mean: Scalar = -1.2
    std: Scalar = 1.2
    draw: Draw = static(default=stratified)

    def __call__(self, key: Key[Array, ""], index: Int[Array, " B"], size: int) -> Float[Array, " B"]:
        log_scale = self.mean + self.std * jax.scipy.special.ndtri(self.draw(key, index, size))
        # The tail above the schedule's own largest noise scale is drawn at the last time below 1.
        return _inside(self.schedule.inverse(-2 * log_scale))
