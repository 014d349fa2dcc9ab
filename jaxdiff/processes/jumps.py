"""Jumps between K states at symmetric rates: kernels by their modes, reverse steps and the ELBO's rate by the kernels.

With r(x, y) = r(y, x) >= 0, D = diag(sum_y r(x, y)) and D - r = U diag(lambda) U^T, the generator r - D leaves the
uniform law alone. Time is the share alpha that the slowest mode keeps (gap: the smallest lambda but the zero), so that

    q(z | x) = exp(log alpha (D - r) / gap) = 1 / K + sum_i U_zi alpha^mu_i U_xi          (mu_i = lambda_i / gap >= 1)
             = [z = x] + sum_i U_zi (alpha^mu_i - 1) U_xi,

a symmetric matrix; the sums leave the uniform mode out. The first form is exact at alpha = 0. The second, by expm1, is
exact at alpha = 1 and taken while u = -mu_max log alpha < 1. Rounding leaves an absolute error of a few eps min(1, u)
beside the diagonal: neighbours, which a token reaches at rates near mu_max, keep their digits however small t is. What
is less than eps min(1, u) / sqrt(K) is noise, of either sign, and is raised to that. So far states, in truth of t^n or
less for n jumps, lose their order of magnitude, but nothing is negative or divides by zero.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer

from jaxdiff.types import is_traced, pytree

Point = tuple[Float[Array, "..."], Float[Array, "..."]]
"""(alpha, sigma = 1 - alpha), which broadcast against (B, ..., K): two numbers, so that both ends are precise."""

_HIGHEST = jax.lax.Precision.HIGHEST  # a GPU would round what is multiplied to 10 bits


@pytree
class Jumps:
    """Rates between K states, scaled to a gap of 1, and the modes in which they decay. `Jumps.of` makes it.

    Args:
        rates: (K, K), symmetric, zero on the diagonal.
        modes: U without the uniform mode, (K, K - 1), orthonormal columns.
        speeds: mu, (K - 1,), ascending from 1.
    """

    rates: Float[Array, "K K"] | Float[np.ndarray, "K K"]
    modes: Float[Array, "K M"] | Float[np.ndarray, "K M"]
    speeds: Float[Array, " M"] | Float[np.ndarray, " M"]

    @classmethod
    def of(cls, rates: Any) -> "Jumps":
        """From rates (K, K) in any unit of time; one eigen-decomposition in double precision. The diagonal is ignored.

        Raises:
            ValueError: rates that are traced, not symmetric, negative, or that do not join all states.
        """
        if is_traced(rates):
            raise ValueError(
                "rates must be known when the process is made: make it outside jax.jit and pass it as an argument"
            )
        rates = np.array(rates, np.float64)
        if rates.ndim != 2 or rates.shape[0] != rates.shape[1] or rates.shape[0] < 2:
            raise ValueError(
                f"rates must be one number for each pair of states, shape (K, K), K > 1, got {rates.shape}"
            )
        np.fill_diagonal(rates, 0.0)
        largest = rates.max()
        if not (np.isfinite(rates).all() and (rates >= 0).all()) or abs(rates - rates.T).max() > 1e-6 * largest:
            raise ValueError(
                f"rates must be finite, not negative and symmetric, got {rates.min():g} to {largest:g} and a largest "
                f"difference of {abs(rates - rates.T).max():g} between the two ways; average them with their transpose"
            )
        rates = (rates + rates.T) / 2
        decay, modes = np.linalg.eigh(np.diag(rates.sum(1)) - rates)
        if not decay[1] > 1e-12 * decay[-1]:
            raise ValueError(
                f"rates must join all states, got a gap of {decay[1]:g} beside a fastest decay of {decay[-1]:g}; raise "
                "the rates between the groups (a smaller beta), or drop states that nothing reaches"
            )
        return cls(rates=rates / decay[1], modes=modes[:, 1:], speeds=np.maximum(decay[1:] / decay[1], 1.0))

    def rows(self, z: Integer[Array, "*B"], at: Point) -> Float[Array, "*S K"]:
        """q(z | x) for each x, shape (..., K), never below zero: K^2 operations for each z, by one matrix product."""
        (alpha, sigma), modes, speeds = at, jnp.asarray(self.modes), jnp.asarray(self.speeds)
        states = modes.shape[0]
        live, soon = alpha > 0, sigma < 0.5
        # Each end of the logarithm from the number that is precise there.
        log_alpha = jnp.where(soon, jnp.log1p(-jnp.where(soon, sigma, 0.0)), jnp.log(jnp.where(live, alpha, 1.0)))
        power = log_alpha * speeds
        early = live & (power[..., -1:] > -1)
        share = jnp.where(early, jnp.expm1(power), jnp.where(live, jnp.exp(power), 0.0))
        start = jnp.where(early, z[..., None] == jnp.arange(states), 1 / states)
        q = start + jnp.matmul(modes[z] * share, modes.T, precision=_HIGHEST)
        noise = jnp.where(early, jnp.minimum(-power[..., -1:], 1.0), 1.0) * jnp.finfo(q.dtype).eps
        return jnp.maximum(q, noise / np.sqrt(states))

    def matrix(self, at: Point) -> Float[Array, "*S K K"]:
        """q(z | x) for all z and x, once for each time: K^3 operations and K^2 numbers."""
        alpha, sigma = at
        return self.rows(jnp.arange(self.modes.shape[0]), (alpha[..., None, :], sigma[..., None, :]))


def mean_of_bridges(
    jumps: Jumps, p: Float[Array, "B ... K"], z: Integer[Array, "B ..."], onward: Point, to: Point
) -> Float[Array, "B ... K"]:
    """sum_k p_k q_ts(z | j) q_s(j | k) / q_t(z | k), shape (B, ..., K), with q_t(z | k) as the sum of its terms over j.

    So each bridge has the sum 1 whatever is rounded.

    Args:
        onward: (alpha_t / alpha_s, 1 - alpha_t / alpha_s).
        to: (alpha_s, sigma_s).
    """
    leave, q = jumps.rows(z, onward), jumps.matrix(to)
    reach = _times(leave, q)
    return leave * _times(p / jnp.where(reach > 0, reach, 1.0), q)


def path_rate(
    jumps: Jumps,
    x0: Integer[Array, "B ..."],
    log_p: Float[Array, "B ... K"],
    z: Integer[Array, "B ..."],
    at: Point,
    slope: Float[Array, "..."],
) -> Float[Array, "B ..."]:
    """The rate at which the KL divergence of reverse paths grows, for each token: the ELBO's integrand, nats.

    Forwards a token jumps z -> j at rate b r(z, j), b = -alpha' / alpha. Backwards it jumps at b r(z, j) times
    B_j = q_t(j | x0) / q_t(z | x0), and the model at b r(z, j) times A_j, the mean of it over p (arXiv 2205.14987,
    prop. 1). With d_j = log(A_j / B_j) the KL (prop. 2) grows by

        b  sum over j != z of  r(z, j) B_j (exp(d_j) - 1 - d_j).

    Towards alpha = 0 every d_j is of the order of alpha: the sum vanishes faster than b grows.

    Args:
        x0, z: data and noisy tokens, shape (B, ...).
        log_p: log p(x0 = k | z), shape (B, ..., K).
        at: (alpha, sigma) at time t.
        slope: alpha'(t), broadcasts against (B, ...).
    """
    noisy = at[1] > 0
    from_x = jnp.where(noisy, jumps.rows(x0, at), 1.0)
    from_z = jnp.where(noisy, jumps.rows(z, at), 1.0)
    q = jnp.where(noisy[..., None], jumps.matrix(at), 1.0)
    weight = log_p - jnp.log(from_z)
    top = jax.lax.stop_gradient(weight.max(-1, keepdims=True))
    log_model = top + jnp.log(_times(jnp.exp(weight - top), q))
    true = from_x / jnp.take_along_axis(from_x, z[..., None], -1)
    d = log_model - jnp.log(true)
    terms = jnp.asarray(jumps.rates)[z] * true * (jnp.expm1(d) - d)
    alpha = at[0][..., 0]
    b = jnp.where(alpha > 0, -slope / jnp.where(alpha > 0, alpha, 1.0), 0.0)
    return jnp.where(noisy[..., 0], b, 0.0) * terms.sum(-1)


def _times(rows: Float[Array, "B ... K"], q: Float[Array, "*S K K"]) -> Float[Array, "B ... K"]:
    """Each row times the matrix of its time; a matrix that tokens share is not repeated for them."""
    return jnp.matmul(rows[..., None, :], q, precision=_HIGHEST)[..., 0, :]
