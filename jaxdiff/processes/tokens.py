"""What all processes of tokens have: log-probabilities of x0 from logits, their cross-entropy, and a denoiser."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from jaxdiff.processes.checks import check_observed
from jaxdiff.processes.observed import Observed, put_in
from jaxdiff.types import Condition, Time, per_sample, pytree

Tokens: TypeAlias = Integer[Array, "B ..."]

NEVER = -1e9  # log 0: finite, so that guidance can take differences


def log_probabilities(
    output: Float[Array, "..."], z_t: Tokens, kept: Bool[Array, "..."], tokens: int
) -> Float[Array, "B ... K"]:
    """log p(x0 | z_t) from logits, in float32 or better; where `kept` (broadcasts), x0 is z_t with probability one.

    Raises:
        ValueError: other than `tokens` logits a token.
    """
    if output.shape != (*z_t.shape, tokens):
        raise ValueError(
            f"a network of tokens gives one logit for each of the {tokens} values of the data, shape "
            f"{(*z_t.shape, tokens)}, got {output.shape}; a mask gets none"
        )
    log_probs = jax.nn.log_softmax(output.astype(jnp.promote_types(output.dtype, jnp.float32)))
    same = z_t[..., None] == jnp.arange(tokens)
    return jnp.where(kept, jnp.where(same, 0.0, NEVER), log_probs)


def cross_entropy(log_probs: Float[Array, "B ... K"], x0: Tokens) -> Float[Array, "B ..."]:
    """-log p(x0) of each token, in nats."""
    return -jnp.take_along_axis(log_probs, x0[..., None], -1)[..., 0]


@pytree
class TokenDenoiser:
    """log p(x0 | z_t) from a network; a pytree, so one compiled sampler serves new parameters and observations."""

    process: Any
    network: Callable[..., Array]
    observed: Observed | None = per_sample(default=None)

    @classmethod
    def of(cls, process: Any, network: Callable[..., Array], observed: Observed | None) -> "TokenDenoiser":
        """Raises ValueError for observed tokens that are no tokens of the data."""
        check_observed(observed, process.tokens)
        if not isinstance(network, jax.tree_util.Partial):
            network = jax.tree_util.Partial(network)
        return cls(process=process, network=network, observed=observed)

    def __call__(self, x: Tokens, t: Time, cond: Condition = None) -> Float[Array, "B ... K"]:
        z, t = put_in(self.observed, x, t)
        return self.process.log_probabilities(self.network(z, t, cond), z, t)
