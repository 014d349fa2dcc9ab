"""A mixture of Gaussians: the richest law whose diffusion is known in closed form.

For a mixture sum_k w_k N(m_k, C_k) the noisy marginal is again a mixture, with means alpha m_k and covariances
S_k = alpha^2 C_k + sigma^2 I, and with responsibilities r_k(x)

    E[x0 | x] = sum_k r_k (m_k + alpha C_k S_k^{-1} (x - alpha m_k)),
    grad log q(x) = -sum_k r_k S_k^{-1} (x - alpha m_k).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxdiff.oracles.linear import Numbers, condition, spectrum, square_root
from jaxdiff.types import Condition, Scalar, Schedule, Time, expand, is_traced, pytree


@pytree
class GaussianMixture:
    """A mixture of K Gaussians in D dimensions.

    Args:
        weights: (K,), positive; normalised here.
        means: (K, D).
        covariances: (K, D, D), symmetric and positive semi-definite; (K, D) for diagonals and (K,) for multiples of
            the identity work too. Where one is singular there is no density at t = 0.

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

    @property
    def mean(self) -> Float[Array, " D"]:
        """E[x0]."""
        return jnp.einsum("k,ki->i", self.weights / self.weights.sum(), self.means)

    @property
    def covariance(self) -> Float[Array, "D D"]:
        """Cov[x0] = sum_k w_k (C_k + (m_k - mean) (m_k - mean)')."""
        weights, centred = self.weights / self.weights.sum(), self.means - self.mean
        return jnp.einsum("k,kij->ij", weights, self.covariances + centred[:, :, None] * centred[:, None, :])

    def moments(self, schedule: Schedule, t: Time) -> tuple[Float[Array, "*B D"], Float[Array, "*B D D"]]:
        """Mean alpha E[x0] and covariance alpha^2 Cov[x0] + sigma^2 I of q(x_t), with the axes of `t` in front."""
        alpha, sigma = (jnp.asarray(a, self.means.dtype)[..., None] for a in schedule(t))
        identity = jnp.eye(self.means.shape[1])
        return alpha * self.mean, (alpha**2)[..., None] * self.covariance + (sigma**2)[..., None] * identity

    def sample(self, key: Key[Array, ""], size: int) -> Float[Array, "B D"]:
        """`size` independent draws of the data."""
        key_k, key_z = jax.random.split(key)
        k = jax.random.categorical(key_k, jnp.log(self.weights), shape=(size,))
        z = jax.random.normal(key_z, (size, self.means.shape[1]), self.means.dtype)
        return self.means[k] + jnp.einsum("bij,bj->bi", square_root(self.covariances)[k], z)

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

    def posterior(self, matrix: Numbers, y: Numbers, noise_std: Scalar) -> "GaussianMixture":
        """The law of x0 given y = A x0 + noise_std z with z ~ N(0, I): again a mixture of K Gaussians.

        Component k has the posterior mean and covariance of N(m_k, C_k) and the weight w_k N(y; A m_k, A C_k A' +
        noise_std^2 I), normalised (formulas in `oracles.linear`). With A = alpha I, y = x_t
        and noise_std = sigma its mean is the denoiser; its own denoiser is E[x0 | x_t, y], the target of a sampler
        conditioned on y. Gradients reach y and noise_std, not A.

        Args:
            matrix: A, shape (M, D), any M.
            y: one measurement, shape (M,). A batch (B, M) is `jax.vmap(law.posterior, (None, 0, None))`, whose result
                is a mixture with a leading axis B on each field, to be used under `jax.vmap` as well.
            noise_std: >= 0. At 0 the covariances are singular: samples satisfy A x0 = y, and the density is that of
                a point set at t = 0 but finite for t > 0.

        Raises:
            ValueError: shapes that do not fit, a negative noise_std, or noise_std = 0 where A C_k A' is singular
                (rows that depend on each other, more rows than columns). Under a trace the last two cannot be
                checked, and the result is NaN.
        """
        matrix, y, d = jnp.asarray(matrix), jnp.asarray(y), self.means.shape[1]
        if matrix.ndim != 2 or matrix.shape[1] != d or y.shape != matrix.shape[:1]:
            raise ValueError(
                f"a measurement of {d} dimensions needs a matrix (M, {d}) and y (M,), got {matrix.shape} and "
                f"{y.shape}; a batch of y is jax.vmap(law.posterior, (None, 0, None))"
            )
        if not is_traced(noise_std) and noise_std < 0:
            raise ValueError(f"noise_std is a standard deviation and must be >= 0, got {noise_std}")
        means, covariances, log_evidence = condition(self.means, self.covariances, matrix, y, noise_std)
        weights = jax.nn.softmax(jnp.log(self.weights) + log_evidence)
        return GaussianMixture(weights=weights, means=means, covariances=covariances)

    def flow(self, x: Float[Array, "B D"], schedule: Schedule, t: Time, s: Time) -> Float[Array, "B D"]:
        """Where the probability-flow ODE carries x from time t to time s, exactly; for one Gaussian, K = 1.

        Its slope is linear, with the eigenvectors Q of C and variances v = alpha^2 eigenvalues + sigma^2 along them:

            x_s = alpha_s m + Q diag(sqrt(v_s / v_t)) Q' (x - alpha_t m).

        Args:
            x: (B, D), at time t.
            schedule: `t -> (alpha, sigma)`.
            t, s: in either order, each of shape () or (B,).

        Raises:
            ValueError: more than one component, for which there is no closed form; or t = 0 with a singular
                covariance, where different paths start from one point.
        """
        if self.means.shape[0] != 1:
            raise ValueError(
                f"the flow has a closed form for one Gaussian, got {self.means.shape[0]} components; "
                "integrate solvers.slope with denoiser(schedule) on a fine grid"
            )
        eigenvalues, axes = spectrum(self.covariances[0])
        (alpha_t, v_t), (alpha_s, v_s) = (
            (alpha.reshape(-1, 1), alpha.reshape(-1, 1) ** 2 * eigenvalues + sigma.reshape(-1, 1) ** 2)
            for alpha, sigma in (map(jnp.asarray, schedule(time)) for time in (t, s))
        )
        if not is_traced(v_t) and not (v_t > 0).all():
            raise ValueError("at t = 0 the flow needs a covariance of full rank; start at t > 0")
        return alpha_s * self.means + (jnp.sqrt(v_s / v_t) * ((x - alpha_t * self.means) @ axes)) @ axes.T

    def _components(self, x, schedule, t):
        """log w_k N(x; alpha m_k, S_k) (B, K), S_k^{-1} (x - alpha m_k) (B, K, D), and alpha (B or 1, 1, 1)."""
        alpha, sigma = (jnp.asarray(a, x.dtype).reshape(-1, 1, 1) for a in schedule(t))
        spread, axes = spectrum(self.covariances)
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
