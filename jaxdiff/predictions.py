"""Predictions: what a network's output means. Every target is linear in data and noise, y = a x0 + b eps.

With x_t = alpha x0 + sigma eps this is a 2x2 linear system with determinant det = alpha b - sigma a, so one inverse
replaces every pairwise conversion:

    x0 = (b x_t - sigma y) / det,    eps = (alpha y - a x_t) / det.

At t = 0 the data are x_t itself. That case is selected before anything is divided, so it is exact and safe under
`jax.grad` for every prediction.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.rates import rates
from jaxdiff.types import Prediction, Scalar, Schedule, Time, expand, pytree

Pair = tuple[Float[Array, "..."], Float[Array, "..."]]


@pytree
class x0:
    """The data, (a, b) = (1, 0)."""

    sigma_data: Scalar = 1.0

    def __call__(self, schedule: Schedule, t: Time) -> Pair:
        alpha, _ = schedule(t)
        return jnp.ones_like(alpha), jnp.zeros_like(alpha)


@pytree
class eps:
    """The noise, (a, b) = (0, 1) (arXiv 2006.11239, eq. 14). Undefined where alpha = 0."""

    sigma_data: Scalar = 1.0

    def __call__(self, schedule: Schedule, t: Time) -> Pair:
        alpha, _ = schedule(t)
        return jnp.zeros_like(alpha), jnp.ones_like(alpha)


@pytree
class v:
    """v = alpha eps - sigma x0, (a, b) = (-sigma, alpha) (arXiv 2202.00512, sec. 4). Bounded at both ends."""

    sigma_data: Scalar = 1.0

    def __call__(self, schedule: Schedule, t: Time) -> Pair:
        alpha, sigma = schedule(t)
        return -sigma, alpha


@pytree
class velocity:
    """dx/dt along the path, (a, b) = (d alpha/dt, d sigma/dt) (arXiv 2210.02747, eq. 15): eps - x0 on RectifiedFlow."""

    sigma_data: Scalar = 1.0

    def __call__(self, schedule: Schedule, t: Time) -> Pair:
        _, (d_alpha, d_sigma) = rates(schedule, t)
        return d_alpha, d_sigma


@pytree
class score:
    """grad log q(x_t | x0), (a, b) = (0, -1 / sigma) (arXiv 2011.13456, eq. 7). Undefined where alpha or sigma is 0."""

    sigma_data: Scalar = 1.0

    def __call__(self, schedule: Schedule, t: Time) -> Pair:
        _, sigma = schedule(t)
        return jnp.zeros_like(sigma), -1 / sigma


@pytree
class edm:
    """EDM's preconditioned target F (arXiv 2206.00364, eq. 7-8 and table 1), carried over to any alpha.

    With var = alpha^2 sigma_data^2 + sigma^2: (a, b) = (sigma / (sigma_data sqrt(var)), -alpha sigma_data / sqrt(var)).

    Args:
        sigma_data: standard deviation of the data.
    """

    sigma_data: Scalar = 0.5

    def __call__(self, schedule: Schedule, t: Time) -> Pair:
        alpha, sigma = schedule(t)
        scale = jnp.sqrt((alpha * self.sigma_data) ** 2 + sigma**2)
        return sigma / (self.sigma_data * scale), -alpha * self.sigma_data / scale


def _system(prediction: Prediction, schedule: Schedule, t: Time):
    """`at_data, (alpha, sigma), (a, b), det` with the times at the data moved away from the singular point."""
    t = jnp.asarray(t)
    at_data = t == 0
    t = jnp.where(at_data, 0.5, t)
    alpha, sigma = schedule(t)
    a, b = prediction(schedule, t)
    return at_data, (alpha, sigma), (a, b), alpha * b - sigma * a


def target(
    prediction: Prediction, schedule: Schedule, x0: Float[Array, "B ..."], eps: Float[Array, "B ..."], t: Time
) -> Float[Array, "B ..."]:
    """The target a x0 + b eps; zero at t = 0, where there is nothing to predict.

    Args:
        x0, eps: data and noise, shape (B, ...).
        t: times, shape () or a prefix of x0's shape.
    """
    at_data, _, (a, b), _ = _system(prediction, schedule, t)
    y = expand(a, x0) * x0 + expand(b, x0) * eps
    return jnp.where(expand(at_data, x0), 0.0, y)


def to_x0(
    prediction: Prediction, schedule: Schedule, x_t: Float[Array, "B ..."], output: Float[Array, "B ..."], t: Time
) -> Float[Array, "B ..."]:
    """The denoised data x0 = (b x_t - sigma y) / det; exactly `x_t` at t = 0.

    Args:
        x_t, output: noisy data and the network's output y, shape (B, ...).
        t: times, shape () or a prefix of x_t's shape.
    """
    at_data, (_, sigma), (_, b), det = _system(prediction, schedule, t)
    denoised = expand(b / det, x_t) * x_t - expand(sigma / det, x_t) * output
    return jnp.where(expand(at_data, x_t), x_t, denoised)


def to_eps(
    prediction: Prediction, schedule: Schedule, x_t: Float[Array, "B ..."], output: Float[Array, "B ..."], t: Time
) -> Float[Array, "B ..."]:
    """The noise eps = (alpha y - a x_t) / det; zero at t = 0."""
    at_data, (alpha, _), (a, _), det = _system(prediction, schedule, t)
    noise = expand(alpha / det, x_t) * output - expand(a / det, x_t) * x_t
    return jnp.where(expand(at_data, x_t), 0.0, noise)


def v_scale(prediction: Prediction, schedule: Schedule, t: Time) -> Float[Array, "..."]:
    """|error in v| / |error in y| = (alpha^2 + sigma^2) / |det|; zero at t = 0. Its square makes a loss that of v."""
    at_data, (alpha, sigma), _, det = _system(prediction, schedule, t)
    return jnp.where(at_data, 0.0, (alpha**2 + sigma**2) / jnp.abs(det))
