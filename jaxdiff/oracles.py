"""Oracles: data laws with exactly known denoiser, score and density, to test schedules, solvers and losses against.

For a mixture sum_k w_k N(m_k, C_k) the noisy marginal is again a mixture, with means alpha m_k and covariances
S_k = alpha^2 C_k + sigma^2 I, and with responsibilities r_k(x)

    E[x0 | x] = sum_k r_k (m_k + alpha C_k S_k^{-1} (x - alpha m_k)),
    grad log q(x) = -sum_k r_k S_k^{-1} (x - alpha m_k).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxdiff.types import Condition, Schedule, Time, expand, pytree

Numbers = Float[Array, "..."] | Float[np.ndarray, "..."]


@pytree
class GaussianMixture:
    """A mixture of K Gaussians in D dimensions.

    Args:
        weights: (K,), positive; normalised here.
        means: (K, D).
        covariances: (K, D, D), symmetric and positive semi-definite; (K, D) for diagonals and (K,) for multiples of
            the identity work too.

    Raises:
        ValueError: shapes that do not fit together.
    """

    weights: Numbers
    means: Numbers
    covariances: Numbers

    def __post_init__(self):
        weights, means, covariances = (jnp.asarray(a) for a in (self.weights, self.means, self.covariances))
        if means.ndim != 2:
            raise ValueError(f"means must have shape (components, dimensions), got {means.shape}")
        k, d = means.shape
        if weights.shape != (k,) or covariances.shape not in ((k,), (k, d), (k, d, d)):
            raise ValueError(
                f"a mixture of {k} Gaussians in {d} dimensions needs weights ({k},) and covariances ({k}, {d}, {d}), "
                f"({k}, {d}) or ({k},), got {weights.shape} and {covariances.shape}"
            )
        if covariances.ndim < 3:
            covariances = jnp.broadcast_to(covariances.reshape(k, -1), (k, d))[:, :, None] * jnp.eye(d)
        for name, value in (("weights", weights), ("means", means), ("covariances", covariances)):
            object.__setattr__(self, name, value)

    def sample(self, key: Key[Array, ""], size: int) -> Float[Array, "B D"]:
        """`size` independent draws of the data."""
        key_k, key_z = jax.random.split(key)
        k = jax.random.categorical(key_k, jnp.log(self.weights), shape=(size,))
        variances, axes = jnp.linalg.eigh(self.covariances)
        z = jax.random.normal(key_z, (size, self.means.shape[1]), self.means.dtype)
        return self.means[k] + jnp.einsum("bij,bj->bi", axes[k], jnp.sqrt(jnp.maximum(variances[k], 0.0)) * z)

    def log_density(self, x: Float[Array, "B D"], schedule: Schedule, t: Time = 0.0) -> Float[Array, " B"]:
        """log q(x_t = x), in nats; at t = 0 the density of the data."""
        return jax.nn.logsumexp(self._components(x, schedule, t)[0], axis=1)

    def score(self, x: Float[Array, "B D"], schedule: Schedule, t: Time = 0.0) -> Float[Array, "B D"]:
        """grad_x log q(x_t = x)."""
        joint, pull, _ = self._components(x, schedule, t)
        return -jnp.einsum("bk,bki->bi", jax.nn.softmax(joint), pull)

    def denoise(
        self, x: Float[Array, "B D"], schedule: Schedule, t: Time, cond: Condition = None
    ) -> Float[Array, "B D"]:
        """E[x0 | x_t = x]; `x` itself at t = 0.

        Args:
            x: (B, D).
            schedule: `t -> (alpha, sigma)`.
            t: shape () or (B,).
            cond: components (B,) that the data are known to come from; -1 where unknown.
        """
        # At t = 0 the posterior is a point; the formula is used away from it, so that gradients stay finite.
        at_data = jnp.asarray(t) == 0
        joint, pull, alpha = self._components(x, schedule, jnp.where(at_data, 0.5, t))
        if cond is not None:
            other = (jnp.arange(joint.shape[1]) != cond[:, None]) & (cond >= 0)[:, None]
            joint = jnp.where(other, -jnp.inf, joint)
        means = self.means + alpha * jnp.einsum("kij,bkj->bki", self.covariances, pull)
        posterior = jnp.einsum("bk,bki->bi", jax.nn.softmax(joint), means)
        return jnp.where(expand(at_data, x), x, posterior)

    def denoiser(self, schedule: Schedule) -> "MixtureDenoiser":
        """The exact denoiser `(x, t, cond) -> E[x0 | x_t]`, a pytree to hand to `sample`."""
        return MixtureDenoiser(mixture=self, schedule=schedule)

    def _components(self, x, schedule, t):
        """log w_k N(x; alpha m_k, S_k) (B, K), S_k^{-1} (x - alpha m_k) (B, K, D), and alpha (B or 1, 1, 1)."""
        alpha, sigma = (jnp.asarray(a, x.dtype).reshape(-1, 1, 1) for a in schedule(t))
        spread, axes = jnp.linalg.eigh(self.covariances)
        variances = alpha**2 * spread + sigma**2
        centred = jnp.einsum("kji,bkj->bki", axes, x[:, None] - alpha * self.means)
        terms = centred**2 / variances + jnp.log(2 * jnp.pi * variances)
        joint = jnp.log(self.weights / self.weights.sum()) - 0.5 * terms.sum(-1)
        return joint, jnp.einsum("kij,bkj->bki", axes, centred / variances), alpha


@pytree
class MixtureDenoiser:
    """The exact denoiser of a mixture on a schedule."""

    mixture: GaussianMixture
    schedule: Schedule

    def __call__(self, x: Float[Array, "B D"], t: Time, cond: Condition = None) -> Float[Array, "B D"]:
        return self.mixture.denoise(x, self.schedule, t, cond)
