"""The discrete process: q(z_t | x0) = alpha [z_t = x0] + sigma pi(z_t) for each token, with alpha + sigma = 1.

A token stays, or jumps to a draw from pi. One kernel is masked diffusion (pi = a mask; arXiv 2406.07524, 2406.04329),
uniform diffusion (pi = 1/K; arXiv 2107.03006, 2412.10193) and all between. With r = alpha_t / alpha_s its transitions
are of the same kind, q(z_t | z_s) = r [z_t = z_s] + (1 - r) pi(z_t), and a reverse step draws each token from the

    mean of bridges    sum_k p(x0 = k | z_t) q(z_s | z_t, k),    q(j | z, k) = q_ts(z | j) q_s(j | k) / q_t(z | k).

The bridge of the mean, q(z_s | z_t, p) with p in the place of [x0 = k], is another law unless pi is a mask: q_t(z | k)
stands in the denominator. It does not sample the data, however many steps it makes.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import xlogy
from jaxtyping import Array, Float

from jaxdiff import noise
from jaxdiff.processes.checks import check_law, check_schedule, check_tokens
from jaxdiff.processes.observed import Observed, mean_of
from jaxdiff.processes.reverse import decoding_cost, mean_of_bridges, path_rate
from jaxdiff.processes.tokens import NEVER, TokenDenoiser, Tokens, cross_entropy, log_probabilities
from jaxdiff.rates import rates
from jaxdiff.schedules import RectifiedFlow
from jaxdiff.types import Mask, Noise, Schedule, Time, expand, is_traced, pytree, static


@pytree
class Discrete:
    """A schedule, and the law pi that a token jumps to.

    Data are int32 (B, ...) with values in [0, tokens). The network gives logits of x0, shape (B, ..., tokens), from
    noisy tokens (B, ...) in [0, V), V = pi.shape[0]: with a mask it must embed V = tokens + 1 values.

    Args:
        schedule: `t -> (alpha, sigma)` with alpha + sigma = 1.
        pi: (V,), not negative, of sum 1. States that data cannot have come last. `masked` and `uniform` make the
            usual ones; frequencies of the data work as well.
        tokens: K, how many values data have; V by default.
        cross_entropy: train with -log p(x0 | z_t) instead of the ELBO's integrand. For masks the integrand is
            -alpha' / sigma times it.

    Raises:
        ValueError: a schedule without alpha + sigma = 1, or a `pi` that is no law on at least `tokens` states.
    """

    schedule: Schedule = RectifiedFlow()
    pi: Float[Array, "..."] | Float[np.ndarray, "..."]
    tokens: int = static(default=None)
    cross_entropy: bool = static(default=False)

    def __post_init__(self):
        check_law(self.pi)
        check_schedule(self.schedule)
        states = self.pi.shape[0]
        if self.tokens is None:
            object.__setattr__(self, "tokens", states)
        if not 1 <= self.tokens <= states:
            raise ValueError(
                f"tokens must lie in [1, {states}], the number of states in pi, got {self.tokens}; a mask is one more "
                "state: Discrete.masked(tokens) makes its pi"
            )

    @classmethod
    def masked(cls, tokens: int, *, uniform: float = 0.0, **options: Any) -> "Discrete":
        """Tokens that jump to a mask, state `tokens`; a share `uniform` of the jumps goes to any token instead."""
        return cls(pi=np.append(np.full(tokens, uniform / tokens), 1 - uniform), tokens=tokens, **options)

    @classmethod
    def uniform(cls, tokens: int, **options: Any) -> "Discrete":
        """Tokens that jump to any of them."""
        return cls(pi=np.full(tokens, 1 / tokens), **options)

    def prior(self, keys: Noise, spec: jax.ShapeDtypeStruct) -> Tokens:
        """Draws from pi, the law at alpha = 0, with the shape (B, ...) of `spec`, whose dtype must be int32."""
        check_tokens(spec)
        return noise.quantile(jnp.asarray(self.pi), noise.uniform(keys, spec.shape))

    def corrupt(self, keys: Noise, x0: Tokens, t: Time) -> tuple[Tokens, Tokens]:
        """z_t ~ q(z_t | x0), int32 (B, ...), and the target, x0.

        Args:
            keys: noise source, of two draws.
            x0: data, int32 (B, ...) in [0, tokens).
            t: times, shape () or a prefix of x0's shape.

        Raises:
            ValueError: another dtype than int32, or values outside [0, tokens) where they are known.
        """
        check_tokens(x0, self.tokens)
        return self._jump(keys, x0, self.schedule(t)[0]), x0

    def forward(self, keys: Noise, z_s: Tokens, s: Time, t: Time) -> Tokens:
        """z_t ~ q(z_t | z_s) for t >= s: more noise for tokens that already carry some; two draws.

        Raises:
            ValueError: t < s, where the values are known: noise is taken away by a solver, with a denoiser.
        """
        if not is_traced((s, t)) and not np.all(np.asarray(t) >= np.asarray(s)):
            raise ValueError(f"forward goes from s to a later t, got s = {s} and t = {t}; to remove noise use a solver")
        alpha_s, alpha_t = self.schedule(s)[0], self.schedule(t)[0]
        return self._jump(keys, z_s, jnp.where(alpha_s > 0, alpha_t, 1.0) / jnp.where(alpha_s > 0, alpha_s, 1.0))

    def inputs(self, z_t: Tokens, t: Time) -> Tokens:
        """The tokens themselves."""
        return z_t

    def evidence(self, z_t: Tokens, t: Time) -> Float[Array, "B ... K"]:
        """q(z_t | x0 = k) of each token for each k, shape (B, ..., tokens)."""
        alpha, sigma = self._at(t, z_t)
        same = z_t[..., None] == jnp.arange(self.tokens)
        return alpha * same + sigma * jnp.asarray(self.pi)[z_t][..., None]

    def log_probabilities(self, output: Float[Array, "B ... K"], z_t: Tokens, t: Time) -> Float[Array, "B ... K"]:
        """log p(x0 | z_t) from a network's logits, in float32 or better, shape (B, ..., tokens).

        Where z_t can only be the data, because pi never gives it or sigma(t) = 0, it is: with probability one, -1e9
        elsewhere.

        Raises:
            ValueError: the network's output has another shape.
        """
        kept = (jnp.asarray(self.pi)[z_t] == 0)[..., None] | (self._at(t, z_t)[1] == 0)
        return log_probabilities(output, z_t, kept, self.tokens)

    def loss(
        self, output: Float[Array, "B ... K"], z_t: Tokens, target: Tokens, t: Time, where: Mask | None = None
    ) -> Float[Array, " B"]:
        """The mean over tokens of the ELBO's integrand, or of the cross-entropy; nats, shape (B,).

        Args:
            output: logits of x0, shape (B, ..., tokens).
            z_t, target: noisy tokens and data, shape (B, ...).
            t: times, shape () or a prefix of the data's shape.
            where: tokens that count, a prefix of the data's shape; all by default. An example without any counts 0.
        """
        log_probs = self.log_probabilities(output, z_t, t)
        error = cross_entropy(log_probs, target) if self.cross_entropy else self._rates(target, log_probs, t, z_t)
        return mean_of(error, where)

    def denoiser(self, network: Callable[..., Array], observed: Observed | None = None) -> TokenDenoiser:
        """`(z_t, t, cond) -> log p(x0 | z_t)`, shape (B, ..., tokens), from `network(z, t, cond)`, which gives logits.

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
    ) -> Float[Array, "B ... V"]:
        """log sum_k p(k | z_t) q(z_s | z_t, k), the law that `bridge` draws from, shape (B, ..., V).

        Args:
            log_probs: log p(x0 | z_t), shape (B, ..., tokens); normalised here.
            z_t: noisy tokens, shape (B, ...).
            t, s: times, s < t, each of shape () or a prefix of z_t's shape.
        """
        log_p, at, to = self._of_states(log_probs), self._at(t, z_t), self._at(s, z_t)
        logits = jnp.log(mean_of_bridges(jnp.asarray(self.pi), jnp.exp(log_p), z_t, at, to))
        return jnp.where(to[1] == 0, log_p, logits)

    def rate(self, x0: Tokens, log_probs: Float[Array, "B ... K"], t: Time, z_t: Tokens) -> Float[Array, " B"]:
        """The ELBO's integrand over t at z_t ~ q(z_t | x0), in nats, shape (B,); formula in `reverse.path_rate`.

        Its integral over [t, 1], with `reconstruction` at t and `prior_kl`, bounds -log p(x0) from above, with equality
        for exact posteriors of each token given all: in continuous time one token jumps at once. It converges at t = 0.
        """
        return self._rates(x0, log_probs, t, z_t).sum(tuple(range(1, x0.ndim)))

    def reconstruction(self, x0: Tokens, t: Time) -> Float[Array, " B"]:
        """-E log p(x0 | z_t), p = the posterior of tokens that are uniform and independent, in nats, shape (B,).

        Each token costs t log K for small t and a mask; nothing at t = 0.
        """
        alpha, sigma = self.schedule(t)
        cost = decoding_cost(jnp.asarray(self.pi), self.tokens, x0, jnp.asarray(alpha), jnp.asarray(sigma))
        return cost.sum(tuple(range(1, x0.ndim)))

    def prior_kl(self, x0: Tokens) -> Float[Array, " B"]:
        """KL(q(z_1 | x0) || pi^L), in nats, shape (B,); 0 where alpha(1) = 0, infinite if pi lacks data that remain."""
        alpha, sigma = self.schedule(1.0)
        pi = jnp.asarray(self.pi)[x0]
        stay = alpha + sigma * pi
        ratio = jnp.where(stay > 0, stay, 1.0) / jnp.where(stay > 0, pi, 1.0)
        return (xlogy(sigma * (1 - pi), sigma) + xlogy(stay, ratio)).sum(tuple(range(1, x0.ndim)))

    def _jump(self, keys: Noise, z: Tokens, stay: Time) -> Tokens:
        """z with probability `stay`, else a draw from pi; two uniforms a token and no array of all states."""
        drawn = noise.quantile(jnp.asarray(self.pi), noise.uniform(keys, z.shape, 1))
        return jnp.where(noise.uniform(keys, z.shape) < expand(stay, z), z, drawn)

    def _rates(self, x0: Tokens, log_probs: Float[Array, "B ... K"], t: Time, z_t: Tokens) -> Float[Array, "B ..."]:
        (alpha, sigma), (slope, _) = rates(self.schedule, t)
        at = expand(alpha, z_t)[..., None], expand(sigma, z_t)[..., None]
        return path_rate(jnp.asarray(self.pi), x0, self._of_states(log_probs), z_t, at, expand(slope, z_t))

    def _of_states(self, log_probs: Float[Array, "B ... K"]) -> Float[Array, "B ... V"]:
        """Normalised, with the states that data cannot have."""
        more = [(0, 0)] * (log_probs.ndim - 1) + [(0, self.pi.shape[0] - log_probs.shape[-1])]
        return jnp.pad(jax.nn.log_softmax(log_probs), more, constant_values=NEVER)

    def _at(self, t: Time, z: Tokens) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """(alpha, sigma) that broadcast against (B, ..., V)."""
        alpha, sigma = self.schedule(t)
        return expand(alpha, z)[..., None], expand(sigma, z)[..., None]
