"""How sure a denoiser is of a token: pure functions `(log_probs, drawn) -> score`, larger is surer.

`log_probs` are log p(x0 | z), normalised, shape (B, ..., K), `drawn` the tokens that were drawn from them, int32
(B, ...), and the score has the shape of `drawn`. `solvers.Confidence` takes any such function.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer


def probability(log_probs: Float[Array, "B ... K"], drawn: Integer[Array, "B ..."]) -> Float[Array, "B ..."]:
    """log p of the drawn token (MaskGIT, arXiv 2202.04200, sec. 3.2; LLaDA, 2502.09992)."""
    return jnp.take_along_axis(log_probs, drawn[..., None], -1)[..., 0]


def margin(log_probs: Float[Array, "B ... K"], drawn: Integer[Array, "B ..."]) -> Float[Array, "B ..."]:
    """The largest probability less the next one, whatever was drawn (arXiv 2502.06768); 1 for K = 1."""
    if log_probs.shape[-1] == 1:
        return jnp.exp(log_probs[..., 0])
    best = jnp.exp(jax.lax.top_k(log_probs, 2)[0])
    return best[..., 0] - best[..., 1]


def entropy(log_probs: Float[Array, "B ... K"], drawn: Integer[Array, "B ..."]) -> Float[Array, "B ..."]:
    """sum_k p log p, the negative entropy in nats, whatever was drawn (Dream, arXiv 2508.15487)."""
    p = jnp.exp(log_probs)
    return jnp.where(p > 0, p * jnp.where(p > 0, log_probs, 0.0), 0.0).sum(-1)
