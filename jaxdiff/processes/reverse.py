"""Reverse jumps of tokens under q(z_t | x0) = alpha [z_t = x0] + sigma pi(z_t), in O(V) for each token and any pi.

For a token at z, with total = alpha + sigma pi(z), rho = sigma pi(z) / total and h_k = rho for k = z, else 1:

    1 / q_t(z | k) = h_k / (sigma pi(z)),    u_k = p_k h_k,    U = sum_k u_k.

So every mean over k is a sum of one term per state, and pi(z), which may be 0, cancels.
"""

import jax.numpy as jnp
from jax.scipy.special import xlogy
from jaxtyping import Array, Float, Integer

from jaxdiff.types import expand

Point = tuple[Float[Array, "..."], Float[Array, "..."]]
"""(alpha, sigma), which broadcast against (B, ..., V)."""


def mean_of_bridges(
    pi: Float[Array, " V"], p: Float[Array, "B ... V"], z: Integer[Array, "B ..."], at: Point, to: Point
) -> Float[Array, "B ... V"]:
    """sum_k p_k q(z_s = j | z_t = z, x0 = k), shape (B, ..., V). With 1 - r = (sigma_t - sigma_s) / alpha_s it is

    j != z:   (1 - r) (alpha_s u_j + sigma_s pi_j U) / sigma_t
    j = z:    (r + (1 - r) pi_z) (alpha_s sigma_t p_z / total + sigma_s U) / sigma_t.
    """
    (alpha_t, sigma_t), (alpha_s, sigma_s) = at, to
    at_z, pi_z, total, u, whole = _terms(pi, p, z, at)
    r = jnp.where(alpha_s > 0, alpha_t, 1.0) / jnp.where(alpha_s > 0, alpha_s, 1.0)
    lost = (sigma_t - sigma_s) / jnp.where(alpha_s > 0, alpha_s, 1.0)
    stay = (r + lost * pi_z) * (alpha_s * sigma_t * p / total + sigma_s * whole)
    leave = lost * (alpha_s * u + sigma_s * pi * whole)
    return jnp.where(at_z, stay, leave) / jnp.where(sigma_t > 0, sigma_t, 1.0)


def path_rate(
    pi: Float[Array, " V"],
    x0: Integer[Array, "B ..."],
    log_p: Float[Array, "B ... V"],
    z: Integer[Array, "B ..."],
    at: Point,
    slope: Float[Array, "..."],
) -> Float[Array, "B ..."]:
    """The rate at which the KL divergence of reverse paths grows, for each token: the ELBO's integrand, nats.

    Forwards a token jumps z -> j at rate b pi(j), b = -alpha' / alpha. Backwards, given x0 = k, the chain jumps at
    b pi(z) q_t(j | k) / q_t(z | k) (time reversal; arXiv 2205.14987, prop. 1), and the model, which knows p alone, at
    the mean R over p of it. Between the path measures of jump rates R* (of the true x0) and R the KL grows by

        sum over j != z of  R_j - R*_j + R*_j log(R*_j / R_j)            (arXiv 2205.14987, prop. 2).

    Here R_j = -alpha' / sigma A_j, A_j = u_j + sigma / alpha pi_j U, and R*_j has B_j, the same of p = [k = x0]. With
    E = A - B the terms are E - B log(1 + E / B), of second order in alpha where pi_j > 0, so that alpha = 0 is finite.

    Args:
        pi: (V,).
        x0, z: data and noisy tokens, shape (B, ...).
        log_p: log p(x0 = k | z), with the states that data cannot have, shape (B, ..., V).
        at: (alpha, sigma) at time t.
        slope: alpha'(t), broadcasts against (B, ...).
    """
    (alpha, sigma), p = at, jnp.exp(log_p)
    at_x = (x0[..., None] == jnp.arange(pi.shape[0])).astype(p.dtype)
    at_z, pi_z, total, u, whole = _terms(pi, p, z, at)
    *_, v, whole_x = _terms(pi, at_x, z, at)
    odds = jnp.where(pi > 0, sigma * pi / jnp.where(alpha > 0, alpha, 1.0), 0.0)
    model, true = u + odds * whole, v + odds * whole_x
    # whole - whole_x = -alpha / total (p_z - [x0 = z]): the difference has no cancellation.
    here = jnp.where(at_z, p - at_x, 0.0).sum(-1, keepdims=True)
    error = u - v - sigma * pi / total * here
    ratio = error / jnp.where(true > 0, true, 1.0)
    near = jnp.abs(ratio) < 0.5
    # p may be too small for a float where its logarithm is not.
    log_u = log_p + jnp.log(jnp.where(at_z & (pi_z > 0), sigma * pi_z / total, 1.0))
    log_model = jnp.where(pi > 0, jnp.log(jnp.where(model > 0, model, 1.0)), log_u)
    log_ratio = jnp.where(
        near, jnp.log1p(jnp.where(near, ratio, 0.0)), log_model - jnp.log(jnp.where(true > 0, true, 1.0))
    )
    terms = jnp.where(true > 0, error - true * log_ratio, error)
    jumps = jnp.where(at_z | ((alpha == 0) & (pi > 0)), 0.0, terms).sum(-1)
    sigma = sigma[..., 0]
    return jnp.where(sigma > 0, -slope / jnp.where(sigma > 0, sigma, 1.0) * jumps, 0.0)


def decoding_cost(
    pi: Float[Array, " V"],
    tokens: int,
    x0: Integer[Array, "B ..."],
    alpha: Float[Array, "..."],
    sigma: Float[Array, "..."],
) -> Float[Array, "B ..."]:
    """-E log p(x0 | z) over z ~ q(z | x0), p(k | z) = q(z | k) / sum_k q(z | k) over `tokens` values of the data.

    alpha and sigma have shape () or a prefix of x0's. Each z costs q log(sum_k q(z | k) / q(z | x0)); the sum over all
    z is that of tokens that jumped, the same for every x0, with the term of z = x0 put right.
    """
    cost = lambda q, total: xlogy(q, jnp.where(q > 0, total, 1.0) / jnp.where(q > 0, q, 1.0))
    jumped = lambda sigma, pi, signal: cost(sigma * pi, signal + tokens * sigma * pi)
    signal = alpha[..., None] * (jnp.arange(pi.shape[0]) < tokens)
    anywhere = expand(jumped(sigma[..., None], pi, signal).sum(-1), x0)
    alpha, sigma, pi = expand(alpha, x0), expand(sigma, x0), pi[x0]
    return anywhere - jumped(sigma, pi, alpha) + cost(alpha + sigma * pi, alpha + tokens * sigma * pi)


def _terms(pi, p, z, at):
    """[j = z] (B, ..., V), pi(z) and total (B, ..., 1), u (B, ..., V) and U (B, ..., 1)."""
    alpha, sigma = at
    at_z, pi_z = z[..., None] == jnp.arange(pi.shape[0]), pi[z][..., None]
    total = alpha + sigma * pi_z
    total = jnp.where(total > 0, total, 1.0)
    u = p * jnp.where(at_z, sigma * pi_z / total, 1.0)
    return at_z, pi_z, total, u, u.sum(-1, keepdims=True)
