"""Confidence: all masks are drawn, the surest tokens stay (MaskGIT, arXiv 2202.04200, sec. 3.2; LLaDA, 2502.09992).

With N masks in a sample at the grid's first time t_1, a step to s leaves

    n(s) = round(N sigma(s) / sigma(t_1))

of them, so many whatever the times before, and none at sigma(s) = 0. For alpha + sigma = 1 that is the expectation of
masked diffusion. A step draws every mask from p(x0 | z)^(1 / temperature), keeps those of the largest

    score(log p(x0 | z), drawn) + randomness sigma(s) g,    g of the standard Gumbel law,

and leaves the n(s) others masks. A step of several tokens draws them as if independent. **One token a step and an exact
denoiser do not give the law of the data either** where the score is that of what was drawn, as `probability` is: likely
draws are kept, and the others drawn again. A score of z alone, as `margin` and `entropy` are, keeps the law then, and
so does randomness = infinity, a uniform order.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer

from jaxdiff import noise
from jaxdiff.solvers import scores
from jaxdiff.solvers.masks import mask_state
from jaxdiff.solvers.steps import real_steps
from jaxdiff.types import Denoiser, Noise, Process, Scalar, is_traced, pytree, static

_TOKEN, _ORDER = 0, 1  # the draws of a step
_CERTAIN = -1e8  # a network's log-probabilities do not get there: below it the process says that a value cannot be


class Masks(NamedTuple):
    """`start`: sigma at the grid's first time. `total`: N of each sample, (B,)."""

    start: Float[Array, ""]
    total: Int[Array, " B"]


@pytree
class Confidence:
    """Unmasks the tokens that the denoiser is surest of; one call a step.

    Tokens that `process.denoiser(network, observed=...)` knows are written by the first step where x holds masks in
    their place, and are not counted in N; other tokens in x count neither, and stay.

    Args:
        score: `(log_probs, drawn) -> score`, `solvers.scores.probability`, `margin`, `entropy` or one's own. It sees
            p(x0 | z) itself, without temperature and cut.
        temperature: >= 0; 0 draws the likeliest token. May be traced, like the next two.
        top_p: in (0, 1]: only the likeliest tokens whose probability sums up to it are drawn, at least one.
        randomness: >= 0, of the order; 0 is the score alone, infinity a uniform order. MaskGIT's code has 4.5.

    Raises:
        ValueError: numbers out of range, where they are known; in `init`, a process whose jumps do not all go to a
            mask.
    """

    score: Callable[..., Array] = static(default=scores.probability)
    temperature: Scalar = 1.0
    top_p: Scalar = 1.0
    randomness: Scalar = 0.0
    order = 0
    one_call = True

    def __post_init__(self):
        if is_traced((self.temperature, self.top_p, self.randomness)):
            return
        if not (np.asarray(self.temperature) >= 0 and 0 < np.asarray(self.top_p) <= 1 and self.randomness >= 0):
            raise ValueError(
                f"Confidence needs temperature >= 0, top_p in (0, 1] and randomness >= 0, got {self.temperature}, "
                f"{self.top_p} and {self.randomness}; temperature=0 is argmax, top_p=1 keeps every token"
            )

    def nfe(self, grid: Float[Array, " N"]) -> Int[Array, ""]:
        return real_steps(grid)

    def init(self, process: Process, x: Integer[Array, "B ..."], grid: Float[Array, " N"]) -> Masks:
        masked = x == mask_state(process, self)
        return Masks(process.schedule(grid[0])[1], masked.reshape(x.shape[0], -1).sum(1, dtype=jnp.int32))

    def step(
        self,
        keys: Noise,
        process: Process,
        denoise: Denoiser,
        x: Integer[Array, "B ..."],
        t: Float[Array, ""],
        s: Float[Array, ""],
        state: Masks,
    ) -> tuple[Integer[Array, "B ..."], Any]:
        log_probs = jax.nn.log_softmax(denoise(x, t))
        drawn = self._draw(keys, log_probs)
        masked, sigma_s = x == mask_state(process, self), process.schedule(s)[1]
        known = masked & ((log_probs > _CERTAIN).sum(-1) == 1)
        flat = lambda a: a.reshape(x.shape[0], -1)
        open_ = flat(masked & ~known)
        count = state.total - flat(known).sum(1, dtype=jnp.int32)
        share = sigma_s / jnp.where(state.start > 0, state.start, 1.0)
        stay = jnp.round(count * share).astype(jnp.int32)
        # The surest first, and what is no mask behind all of them.
        worth = flat(self._worth(keys, log_probs, drawn, sigma_s))
        rank = jnp.argsort(jnp.lexsort((-worth, ~open_)), -1)
        kept = open_ & (rank < open_.sum(1)[:, None] - stay[:, None])
        return jnp.where(known | kept.reshape(x.shape), drawn, x), Masks(state.start, count)

    def _draw(self, keys: Noise, log_probs: Float[Array, "B ... K"]) -> Integer[Array, "B ..."]:
        def warm():
            logits = jax.nn.log_softmax(log_probs / self.temperature)
            return noise.categorical(
                keys, jax.lax.cond(self.top_p < 1, self._cut, lambda logits: logits, logits), _TOKEN
            )

        return jax.lax.cond(self.temperature > 0, warm, lambda: log_probs.argmax(-1).astype(jnp.int32))

    def _cut(self, logits: Float[Array, "B ... K"]) -> Float[Array, "B ... K"]:
        """Without the tokens that are less likely than the last one of those that sum up to `top_p`."""
        best = -jnp.sort(-logits)
        before = jnp.cumsum(jnp.exp(best), -1) - jnp.exp(best)
        needed = (before < self.top_p).at[..., 0].set(True)
        least = jnp.where(needed, best, jnp.inf).min(-1, keepdims=True)
        return jnp.where(logits >= least, logits, -jnp.inf)

    def _worth(
        self, keys: Noise, log_probs: Float[Array, "B ... K"], drawn: Integer[Array, "B ..."], sigma: Float[Array, ""]
    ) -> Float[Array, "B ..."]:
        score, amount = self.score(log_probs, drawn), jnp.asarray(self.randomness, log_probs.dtype)

        def shaken():
            gumbel = -jnp.log(-jnp.log1p(-noise.uniform(keys, drawn.shape, _ORDER))).astype(score.dtype)
            return jnp.where(
                jnp.isinf(amount), gumbel, score + jnp.where(jnp.isinf(amount), 0.0, amount * sigma) * gumbel
            )

        return jax.lax.cond(amount > 0, shaken, lambda: score)
