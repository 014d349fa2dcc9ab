"""The Gaussian process: q(x_t | x0) = N(alpha x0, sigma^2 I) for continuous data (arXiv 2011.13456, 2107.00630).

Its transitions and its bridge are exact for any two times s < t (arXiv 2107.00630, app. A):

    q(x_t | x_s)     = N(alpha_ts x_s, sigma_ts^2 I)
    q(x_s | x_t, x0) = N(alpha_s x0 + sqrt(sigma_s^2 - var) (x_t - alpha_t x0) / sigma_t, var I)

with alpha_ts = alpha_t / alpha_s, sigma_ts^2 = sigma_t^2 - alpha_ts^2 sigma_s^2 and
var = sigma_s^2 sigma_ts^2 / sigma_t^2.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdiff import noise, predictions
from jaxdiff.processes.observed import Observed, mean_of, put_in
from jaxdiff.rates import logsnr, rates
from jaxdiff.types import Condition, Mask, Noise, Prediction, Schedule, Time, expand, is_traced, per_sample, pytree


@pytree
class Gaussian:
    """A noise schedule and the meaning of the network's output.

    Args:
        schedule: `t -> (alpha, sigma)`.
        prediction: the linear target of the network; its `sigma_data` sets the scale of the network's inputs.

    Raises:
        ValueError: the prediction carries no information where the schedule leaves no signal (eps and score at
            alpha(1) = 0), or a class was passed where an instance is needed.
    """

    schedule: Schedule
    prediction: Prediction = predictions.v()

    def __post_init__(self):
        for name, value in (("schedule", self.schedule), ("prediction", self.prediction)):
            if isinstance(value, type):
                raise ValueError(
                    f"{name} must be an instance, got the class {value.__name__}: write {value.__name__}()"
                )
        if is_traced(self):
            return
        with jax.ensure_compile_time_eval():
            alpha, sigma = self.schedule(1.0)
            a, b = self.prediction(self.schedule, 1.0)
            informative = bool(jnp.abs(alpha * b - sigma * a) > 0)
        if not informative:
            raise ValueError(
                f"prediction {type(self.prediction).__name__} cannot give x0 at t = 1, where "
                f"{type(self.schedule).__name__} has alpha = {float(alpha):g}: the output holds no signal there; "
                "use predictions.v(), predictions.x0() or predictions.velocity()"
            )

    def prior(self, keys: Noise, spec: jax.ShapeDtypeStruct) -> Float[Array, "B ..."]:
        """A draw of the noise at t = 1, N(0, sigma(1)^2 I), with the shape (B, ...) and dtype of `spec`."""
        _, sigma = self.schedule(jnp.ones((), spec.dtype))
        return sigma * noise.normal(keys, spec)

    def prior_log_density(self, x: Float[Array, "B ..."]) -> Float[Array, " B"]:
        """log N(x; 0, sigma(1)^2 I), of what `prior` draws, in nats, shape (B,)."""
        _, sigma = self.schedule(jnp.ones((), x.dtype))
        return -0.5 * ((x / sigma) ** 2 + jnp.log(2 * jnp.pi * sigma**2)).sum(tuple(range(1, x.ndim)))

    def corrupt(
        self, keys: Noise, x0: Float[Array, "B ..."], t: Time
    ) -> tuple[Float[Array, "B ..."], Float[Array, "B ..."]]:
        """x_t ~ q(x_t | x0) and the target that a network should give there.

        Args:
            keys: noise source.
            x0: data, shape (B, ...).
            t: times, shape () or a prefix of x0's shape.
        """
        eps = noise.normal(keys, x0)
        alpha, sigma = self._at(t, x0)
        return alpha * x0 + sigma * eps, predictions.target(self.prediction, self.schedule, x0, eps, t)

    def forward(self, keys: Noise, x_s: Float[Array, "B ..."], s: Time, t: Time) -> Float[Array, "B ..."]:
        """x_t ~ q(x_t | x_s) for t >= s: more noise for data that already carry some.

        Raises:
            ValueError: t < s, where the values are known: noise is taken away by a solver, with a denoiser.
        """
        if not is_traced((s, t)) and not np.all(np.asarray(t) >= np.asarray(s)):
            raise ValueError(f"forward goes from s to a later t, got s = {s} and t = {t}; to remove noise use a solver")
        (alpha_s, sigma_s), (alpha_t, sigma_t) = self.schedule(s), self.schedule(t)
        ratio = jnp.where(alpha_s > 0, alpha_t, 1.0) / jnp.where(alpha_s > 0, alpha_s, 1.0)  # 1 from noise to noise
        variance = jnp.maximum(sigma_t**2 - (ratio * sigma_s) ** 2, 0.0)
        # From a time to itself nothing is drawn, whatever rounding leaves of the difference.
        std = jnp.where(jnp.asarray(s) == jnp.asarray(t), 0.0, jnp.sqrt(variance))
        return noise.add(keys, expand(ratio, x_s) * x_s, std)

    def inputs(self, x_t: Float[Array, "B ..."], t: Time) -> Float[Array, "B ..."]:
        """x_t / sqrt(alpha^2 sigma_data^2 + sigma^2): of unit variance (c_in in arXiv 2206.00364, table 1)."""
        alpha, sigma = self._at(t, x_t)
        return x_t / jnp.sqrt((alpha * self.prediction.sigma_data) ** 2 + sigma**2)

    def loss(
        self,
        output: Float[Array, "B ..."],
        x_t: Float[Array, "B ..."],
        target: Float[Array, "B ..."],
        t: Time,
        where: Mask | None = None,
    ) -> Float[Array, " B"]:
        """The mean squared error of v, from the error in the prediction's own space.

        Args:
            output, target: what the network gave and should have given, shape (B, ...).
            x_t: noisy data; the error of a linear target does not depend on it.
            t: times, shape () or a prefix of the data's shape.
            where: elements that count, a prefix of the data's shape; all by default. An example without any counts 0.

        Returns:
            One number an example, shape (B,).
        """
        scale = expand(predictions.v_scale(self.prediction, self.schedule, t), output)
        error = (scale * (output - target).astype(jnp.float32)) ** 2
        return mean_of(error, where)

    def denoiser(self, network: Callable[..., Array], observed: Observed | None = None) -> "GaussianDenoiser":
        """`(x_t, t, cond) -> E[x0 | x_t]` from `network(x, t, cond)`.

        Args:
            network: usually `jax.tree_util.Partial(apply, params)`, so that the denoiser is a pytree which `jax.jit`
                takes as an argument; a plain function works too and is then part of the compiled program.
            observed: `(mask, value)` of known elements. They are put into x_t, the network sees t = 0 there, and they
                come back exactly. The mask's shape is a prefix of the data's shape.
        """
        if not isinstance(network, jax.tree_util.Partial):
            network = jax.tree_util.Partial(network)
        return GaussianDenoiser(process=self, network=network, observed=observed)

    def bridge(
        self, keys: Noise, denoised: Float[Array, "B ..."], x_t: Float[Array, "B ..."], t: Time, s: Time
    ) -> Float[Array, "B ..."]:
        """x_s ~ q(x_s | x_t, x0 = denoised) for s < t; exactly `denoised` where sigma(s) = 0."""
        (alpha_t, sigma_t), (alpha_s, sigma_s) = self.schedule(t), self.schedule(s)
        # sqrt(sigma_s^2 - var) = sigma_s kept, var = sigma_s^2 (1 - kept^2), with 1 - kept free of cancellation.
        kept = alpha_t * sigma_s / (alpha_s * sigma_t)
        lost = (alpha_s * sigma_t - alpha_t * sigma_s) / (alpha_s * sigma_t)
        eps = (x_t - expand(alpha_t, x_t) * denoised) / expand(sigma_t, x_t)
        mean = expand(alpha_s, x_t) * denoised + expand(sigma_s * kept, x_t) * eps
        std = sigma_s * jnp.sqrt(jnp.maximum(lost * (1 + kept), 0.0))
        x_s = noise.add(keys, mean, std)
        return jnp.where(expand(sigma_s == 0, x_t), denoised, x_s)

    def rate(
        self,
        x0: Float[Array, "B ..."],
        denoised: Float[Array, "B ..."],
        t: Time,
        x_t: Float[Array, "B ..."] | None = None,
    ) -> Float[Array, " B"]:
        """The ELBO's integrand over t, -1/2 dSNR/dt |x0 - denoised|^2 (arXiv 2107.00630, eq. 17), in nats, shape (B,).

        Its integral over [t, 1], with `reconstruction` at t and `prior_kl`, bounds -log p(x0) from above. It diverges
        like 1 / t at the data, so the integral starts at some t > 0. It does not depend on x_t itself.
        """
        (alpha, sigma), (d_alpha, d_sigma) = rates(self.schedule, t)
        weight = alpha * (alpha * d_sigma - sigma * d_alpha) / sigma**3
        return weight * ((x0 - denoised) ** 2).sum(tuple(range(1, x0.ndim)))

    def control(
        self, x0: Float[Array, "B ..."], x_t: Float[Array, "B ..."], t: Time
    ) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
        """The rate of the denoiser c x_t, exact for N(0, sigma_data^2) data, and its mean over the noise in x_t.

        x0 - c x_t = (1 - c alpha) x0 - c sigma eps, so the mean square is |(1 - c alpha) x0|^2 + |c sigma 1|^2.
        """
        alpha, sigma = self.schedule(t)
        power = self.prediction.sigma_data**2
        c = alpha * power / (alpha**2 * power + sigma**2)
        noisy = jnp.broadcast_to(expand(c * sigma, x0), x0.shape)
        mean = self.rate(x0, expand(c * alpha, x0) * x0, t) + self.rate(noisy, jnp.zeros_like(x0), t)
        return self.rate(x0, expand(c, x0) * x_t, t), mean

    def reconstruction(self, x0: Float[Array, "B ..."], t: Time) -> Float[Array, " B"]:
        """-E log p(x0 | x_t) with p = N(x_t / alpha, (sigma / alpha)^2 I), in nats, shape (B,).

        For D dimensions it is D/2 log(2 pi e sigma^2 / alpha^2).
        """
        size = np.prod(x0.shape[1:])
        return jnp.broadcast_to(0.5 * size * (1 + jnp.log(2 * jnp.pi) - logsnr(self.schedule, t)), x0.shape[:1])

    def prior_kl(self, x0: Float[Array, "B ..."]) -> Float[Array, " B"]:
        """KL(q(x_1 | x0) || prior) = |alpha(1) x0|^2 / (2 sigma(1)^2), in nats, shape (B,)."""
        alpha, sigma = self.schedule(jnp.ones((), x0.dtype))
        return 0.5 * ((alpha / sigma * x0) ** 2).sum(tuple(range(1, x0.ndim)))

    def _at(self, t: Time, like: Float[Array, "B ..."]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        alpha, sigma = self.schedule(t)
        return expand(alpha, like), expand(sigma, like)


@pytree
class GaussianDenoiser:
    """E[x0 | x_t] from a network; a pytree, so one compiled sampler serves new parameters and observations."""

    process: Gaussian
    network: Callable[..., Array]
    observed: Observed | None = per_sample(default=None)

    def __call__(self, x: Float[Array, "B ..."], t: Time, cond: Condition = None) -> Float[Array, "B ..."]:
        x, t = put_in(self.observed, x, t)
        output = self.network(self.process.inputs(x, t), t, cond)
        return predictions.to_x0(self.process.prediction, self.process.schedule, x, output, t)
