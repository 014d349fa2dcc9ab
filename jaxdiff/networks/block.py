"""Transformer block with adaLN-zero (arXiv 2212.09748 sec. 3.2): knows tokens, not what they are.

h <- h + gate1 attention(norm(h) (1 + scale1) + shift1), then h <- h + gate2 mlp(norm(h) (1 + scale2) + shift2);
the six come from one linear map of the embedding that starts at zero, so the block starts as the identity.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from jaxdiff.networks.attention import SelfAttention
from jaxdiff.networks.dropout import dropout
from jaxdiff.networks.layers import Linear
from jaxdiff.networks.norms import layer_norm


def modulate(
    h: Float[Array, "B T C"], scale: Float[Array, "b 1 C"], shift: Float[Array, "b 1 C"]
) -> Float[Array, "B T C"]:
    """Adaptive layer norm: norm(h) (1 + scale) + shift."""
    return layer_norm(h) * (1 + scale) + shift


class Block(nnx.Module):
    """Attention and MLP on tokens (B, T, width), steered by an embedding (B or 1, width).

    Args:
        width: channels of a token and of the embedding.
        heads: attention heads, a divisor of width.
        hidden: hidden units of the MLP.
        qk_norm: RMS-normalise queries and keys.
        rate, site: dropout probability of both branches, and its numbers `site` and `site + 1`.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        hidden: int,
        qk_norm: bool,
        rate: float | int = 0.0,
        site: int = 0,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.rate, self.site = rate, site
        self.modulation = Linear(width, 6 * width, zero=True, dtype=dtype, rngs=rngs)
        self.attention = SelfAttention(width, heads, qk_norm=qk_norm, dtype=dtype, rngs=rngs)
        self.first = Linear(width, hidden, dtype=dtype, rngs=rngs)
        self.last = Linear(hidden, width, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        h: Float[Array, "B T C"],
        embedding: Float[Array, "b C"],
        keys: Key[Array, " B"] | None = None,
        angles: Float[Array, "T half"] | None = None,
    ) -> Float[Array, "B T C"]:
        scale1, shift1, gate1, scale2, shift2, gate2 = jnp.split(self.modulation(embedding)[:, None], 6, -1)
        branch = self.attention(modulate(h, scale1, shift1), angles)
        h = h + gate1 * dropout(branch, self.rate, keys, self.site)
        branch = self.last(jax.nn.gelu(self.first(modulate(h, scale2, shift2))))
        return h + gate2 * dropout(branch, self.rate, keys, self.site + 1)
