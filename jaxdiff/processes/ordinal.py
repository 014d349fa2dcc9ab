"""The ordinal process: tokens whose K values have an order, or any other neighbourhood, and jump to near ones first.

Jumps x -> y have symmetric rates r(x, y), such as the discretised Gaussian exp(-beta |x - y|^2) of arXiv 2107.03006,
app. A.2.2, here in continuous time (arXiv 2205.14987, sec. 4.3). Noise is the uniform law. The schedule's alpha is the
share that the slowest mode of the jumps keeps:

    q(z_t | x0) = exp(log alpha(t) (D - r) / gap),    q(z_t | z_s) the same with alpha_t / alpha_s.

Equal rates have one speed, and are `Discrete.uniform`. Kernels, the mean of bridges that a reverse step draws from and
the bound's integrand are in `jumps`. Their cost is K^2 for each token and, in bridges and rates, K^3 operations and K^2
numbers for each *time*: one of a sampler, B of a batch with t of shape (B,), B L only where each token has its own.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import xlogy
from jaxtyping import Array, Float

from jaxdiff import noise
from jaxdiff.processes.checks import check_schedule, check_tokens
from jaxdiff.processes.jumps import Jumps, Point, mean_of_bridges, path_rate
from jaxdiff.processes.observed import Observed, mean_of
from jaxdiff.processes.tokens import TokenDenoiser, Tokens, cross_entropy, log_probabilities
from jaxdiff.rates import rates
from jaxdiff.schedules import RectifiedFlow
from jaxdiff.types import Mask, Noise, Schedule, Time, expand, is_traced, pytree, static


@pytree
class Ordinal:
    """A schedule, and the rates at which a token jumps between K values.

    Data are int32 (B, ...) with values in [0, K): levels of a quantised picture, ratings, counts. The network gives
    logits of x0, shape (B, ..., K), from noisy tokens (B, ...) in [0, K).

    Args:
        schedule: `t -> (alpha, sigma)` with alpha + sigma = 1.
        rates: (K, K), symmetric, not negative, joining all values; their unit does not matter and the diagonal is
            ignored. `gaussian` makes the usual ones.
        cross_entropy: train with -log p(x0 | z_t) instead of the ELBO's integrand.

    Attributes:
        jumps: the rates in units of their gap and their modes, found once, when the process is made.

    Raises:
        ValueError: a schedule without alpha + sigma = 1, or rates as `Jumps.of` refuses.
    """

    schedule: Schedule = RectifiedFlow()
    rates: Float[Array, "..."] | Float[np.ndarray, "..."]
    cross_entropy: bool = static(default=False)
    jumps: Jumps = dataclasses.field(init=False)

    def __post_init__(self):
        check_schedule(self.schedule)
        object.__setattr__(self, "jumps", Jumps.of(self.rates))

    @classmethod
    def gaussian(cls, tokens: int, *, beta: float, **options: Any) -> "Ordinal":
        """Rates exp(-beta |x - y|^2) between `tokens` levels: beta = 0 is uniform, a large one a walk to neighbours.

        D3PM's own width (arXiv 2107.03006, eq. 8) is beta = 4 / ((K - 1)^2 beta_t). In single precision pairs of
        values further apart than about sqrt(15 / beta) meet only through others.
        """
        if not (np.ndim(beta) == 0 and np.isfinite(beta) and beta >= 0):
            raise ValueError(f"beta must be a finite number >= 0, per squared step between levels, got {beta}")
        level = np.arange(tokens, dtype=np.float64)
        distance = np.square(level[:, None] - level)
        # Their unit is free: relative to neighbours' a large beta does not underflow.
        return cls(rates=np.exp(-float(beta) * np.maximum(distance - 1, 0.0)), **options)

    @property
    def tokens(self) -> int:
        """K, how many values a token has."""
        return self.rates.shape[0]

    def prior(self, keys: Noise, spec: jax.ShapeDtypeStruct) -> Tokens:
        """Uniform draws, the law at alpha = 0, with the shape (B, ...) of `spec`, whose dtype must be int32."""
        check_tokens(spec)
        return noise.quantile(jnp.full(self.tokens, 1 / self.tokens), noise.uniform(keys, spec.shape))

    def corrupt(self, keys: Noise, x0: Tokens, t: Time) -> tuple[Tokens, Tokens]:
        """z_t ~ q(z_t | x0), int32 (B, ...), and the target, x0.

        Args:
            keys: noise source, of one draw.
            x0: data, int32 (B, ...) in [0, K).
            t: times, shape () or a prefix of x0's shape.

        Raises:
            ValueError: another dtype than int32, or values outside [0, K) where they are known.
        """
        check_tokens(x0, self.tokens)
        return noise.quantile(self.evidence(x0, t), noise.uniform(keys, x0.shape)), x0

    def forward(self, keys: Noise, z_s: Tokens, s: Time, t: Time) -> Tokens:
        """z_t ~ q(z_t | z_s) for t >= s: more noise for tokens that already carry some; one draw.

        Raises:
            ValueError: t < s, where the values are known: noise is taken away by a solver, with a denoiser.
        """
        if not is_traced((s, t)) and not np.all(np.asarray(t) >= np.asarray(s)):
            raise ValueError(f"forward goes from s to a later t, got s = {s} and t = {t}; to remove noise use a solver")
        law = self.jumps.rows(z_s, _between(self._at(s, z_s), self._at(t, z_s)))
        return noise.quantile(law, noise.uniform(keys, z_s.shape))

    def inputs(self, z_t: Tokens, t: Time) -> Tokens:
        """The tokens themselves."""
        return z_t

    def evidence(self, z_t: Tokens, t: Time) -> Float[Array, "B ... K"]:
        """q(z_t | x0 = k) of each token for each k, shape (B, ..., K); also the law of z_t from x0, by symmetry."""
        return self.jumps.rows(z_t, self._at(t, z_t))

    def log_probabilities(self, output: Float[Array, "B ... K"], z_t: Tokens, t: Time) -> Float[Array, "B ... K"]:
        """log p(x0 | z_t) from a network's logits, in float32 or better, shape (B, ..., K).

        Where sigma(t) = 0 a token is the data, with probability one, -1e9 elsewhere.

        Raises:
            ValueError: the network's output has another shape.
        """
        return log_probabilities(output, z_t, self._at(t, z_t)[1] == 0, self.tokens)

    def loss(
        self, output: Float[Array, "B ... K"], z_t: Tokens, target: Tokens, t: Time, where: Mask | None = None
    ) -> Float[Array, " B"]:
        """The mean over tokens of the ELBO's integrand, or of the cross-entropy; nats, shape (B,).

        Args:
            output: logits of x0, shape (B, ..., K).
            z_t, target: noisy tokens and data, shape (B, ...).
            t: times, shape () or a prefix of the data's shape.
            where: tokens that count, a prefix of the data's shape; all by default. An example without any counts 0.
        """
        log_probs = self.log_probabilities(output, z_t, t)
        error = cross_entropy(log_probs, target) if self.cross_entropy else self._rates(target, log_probs, t, z_t)
        return mean_of(error, where)

    def denoiser(self, network: Callable[..., Array], observed: Observed | None = None) -> TokenDenoiser:
        """`(z_t, t, cond) -> log p(x0 | z_t)`, shape (B, ..., K), from `network(z, t, cond)`, which gives logits.

        Args:
            network: usually `jax.tree_util.Partial(apply, params)`; see `Gaussian.denoiser`.
            observed: `(mask, value)` of known tokens. They are put into z_t, the network sees t = 0 there, and they
                come back with probability one. The mask's shape is a prefix of the data's shape.
        """
        return TokenDenoiser.of(self, network, observed)

    def bridge(self, keys: Noise, log_probs: Float[Array, "B ... K"], z_t: Tokens, t: Time, s: Time) -> Tokens:
        """z_s drawn from the mean of bridges for s < t, int32 (B, ...); from p(x0 | z_t) itself where sigma(s) = 0."""
        return noise.categorical(keys, self.bridge_logits(log_probs, z_t, t, s))

    def bridge_logits(
        self, log_probs: Float[Array, "B ... K"], z_t: Tokens, t: Time, s: Time
    ) -> Float[Array, "B ... K"]:
        """log sum_k p(k | z_t) q(z_s | z_t, k), the law that `bridge` draws from, shape (B, ..., K).

        Args:
            log_probs: log p(x0 | z_t), shape (B, ..., K); normalised here.
            z_t: noisy tokens, shape (B, ...).
            t, s: times, s < t, each of shape () or a prefix of z_t's shape.
        """
        log_p, at, to = jax.nn.log_softmax(log_probs), self._at(t, z_t), self._at(s, z_t)
        law = mean_of_bridges(self.jumps, jnp.exp(log_p), z_t, _between(to, at), to)
        return jnp.where(to[1] == 0, log_p, jnp.log(law))

    def rate(self, x0: Tokens, log_probs: Float[Array, "B ... K"], t: Time, z_t: Tokens) -> Float[Array, " B"]:
        """The ELBO's integrand over t at z_t ~ q(z_t | x0), in nats, shape (B,); formula in `jumps.path_rate`.

        Its integral over [t, 1], with `reconstruction` at t and `prior_kl`, bounds -log p(x0) from above, with equality
        for exact posteriors of each token given all: in continuous time one token jumps at once. It converges at t = 0.
        """
        return self._rates(x0, log_probs, t, z_t).sum(tuple(range(1, x0.ndim)))

    def reconstruction(self, x0: Tokens, t: Time) -> Float[Array, " B"]:
        """-E log p(x0 | z_t), p = the posterior of tokens that are uniform and independent, in nats, shape (B,).

        That posterior is q(z_t | x0) itself, so each token costs the entropy of q; nothing at t = 0.
        """
        q = self.evidence(x0, t)
        return -xlogy(q, jnp.where(q > 0, q, 1.0)).sum(tuple(range(1, q.ndim)))

    def prior_kl(self, x0: Tokens) -> Float[Array, " B"]:
        """KL(q(z_1 | x0) || uniform), in nats, shape (B,); 0 where alpha(1) = 0."""
        q = self.evidence(x0, 1.0)
        cost = xlogy(q, self.tokens * jnp.where(q > 0, q, 1.0)).sum(tuple(range(1, q.ndim)))
        return jnp.where(self.schedule(1.0)[0] > 0, cost, 0.0)

    def _rates(self, x0: Tokens, log_probs: Float[Array, "B ... K"], t: Time, z_t: Tokens) -> Float[Array, "B ..."]:
        (alpha, sigma), (slope, _) = rates(self.schedule, t)
        at = expand(alpha, z_t)[..., None], expand(sigma, z_t)[..., None]
        return path_rate(self.jumps, x0, jax.nn.log_softmax(log_probs), z_t, at, expand(slope, z_t))

    def _at(self, t: Time, z: Tokens) -> Point:
        """(alpha, sigma) that broadcast against (B, ..., K)."""
        alpha, sigma = self.schedule(t)
        return expand(alpha, z)[..., None], expand(sigma, z)[..., None]


def _between(at_s: Point, at_t: Point) -> Point:
    """(alpha_t / alpha_s, 1 - alpha_t / alpha_s); without signal at s nothing is left to lose."""
    (alpha_s, sigma_s), (alpha_t, sigma_t) = at_s, at_t
    live = alpha_s > 0
    whole = jnp.where(live, alpha_s, 1.0)
    return jnp.where(live, alpha_t, 1.0) / whole, jnp.where(live, sigma_t - sigma_s, 0.0) / whole
