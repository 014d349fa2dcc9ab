"""Transformer block with adaLN-zero (arXiv 2212.09748 sec. 3.2): knows tokens, not what they are.

h <- h + gate1 attention(norm(h) (1 + scale1) + shift1), then h <- h + gate2 mlp(norm(h) (1 + scale2) + shift2);
the six come from one linear map of the embedding that starts at zero, so the block starts as the identity.
With a context, h <- h + cross(norm(h), context) stands between the two (arXiv 2310.00426, fig. 4).
Without an embedding the two scales are parameters, the shifts are 0 and the gates 1 (arXiv 2002.04745, pre-LN).
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from jaxdiff.networks.attention import CrossAttention, Memory, SelfAttention
from jaxdiff.networks.dropout import dropout
from jaxdiff.networks.layers import Linear
from jaxdiff.networks.norms import EPSILON, layer_norm

Rows: TypeAlias = Float[Array, "b C"] | Float[Array, "b g C"]
"""What steers tokens: one row an example, or g rows, of which each serves T / g neighbours; b is B or 1."""


def modulate(
    h: Float[Array, "B T C"], scale: Float[Array, "... C"], shift: Float[Array, "... C"], epsilon: float = EPSILON
) -> Float[Array, "B T C"]:
    """Adaptive layer norm: norm(h) (1 + scale) + shift."""
    return layer_norm(h, epsilon) * (1 + scale) + shift


class Scales(nnx.Module):
    """In the place of the linear map of an embedding: `count` learned scales, with shifts of 0 and gates of 1."""

    def __init__(self, width: int, *, count: int):
        self.scale = nnx.Param(jnp.zeros((count, width)))


def steer(modulation: Linear | Scales, embedding: Rows | None, h: Float[Array, "B T C"]) -> list[Float[Array, "..."]]:
    """Scale, shift, gate, scale, ... that broadcast against h; those of an embedding are computed once a row of it.

    Raises:
        ValueError: an embedding for blocks that take none, or none for those that do.
    """
    if isinstance(modulation, Scales) and embedding is None:
        scales = modulation.scale[...].astype(h.dtype)
        return [part for scale in scales for part in (scale, jnp.zeros_like(scale), jnp.ones_like(scale))]
    if isinstance(modulation, Scales) or embedding is None:
        raise ValueError("a block with steered=True needs an embedding, one with steered=False takes None")
    rows = modulation(embedding)
    rows = rows[:, None] if rows.ndim == 2 else rows
    rows = rows if rows.shape[1] == 1 else jnp.repeat(rows, h.shape[1] // rows.shape[1], 1)
    return jnp.split(rows, rows.shape[-1] // h.shape[-1], -1)


class Block(nnx.Module):
    """Attention and MLP on tokens (B, T, width), steered by an embedding (B or 1, width) or (B or 1, g, width).

    Args:
        width: channels of a token and of the embedding.
        heads: attention heads, a divisor of width.
        hidden: hidden units of the MLP.
        qk_norm: RMS-normalise queries and keys.
        flash: see `SelfAttention`.
        context: features of a sequence that is attended to between attention and MLP, 0 for none.
        steered: whether there is an embedding; then it must be given, and else None.
        rate, site: dropout probability of both branches, and its numbers `site` and `site + 1`.
        mlp_epsilon: added to the variance in the norm before the MLP.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        hidden: int,
        qk_norm: bool,
        flash: bool = False,
        context: int = 0,
        steered: bool = True,
        rate: float | int = 0.0,
        site: int = 0,
        mlp_epsilon: float = EPSILON,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.rate, self.site, self.mlp_epsilon = rate, site, mlp_epsilon
        linear = lambda: Linear(width, 6 * width, zero=True, dtype=dtype, rngs=rngs)
        self.modulation = linear() if steered else Scales(width, count=2)
        self.attention = SelfAttention(width, heads, qk_norm=qk_norm, flash=flash, dtype=dtype, rngs=rngs)
        self.context = CrossAttention(width, heads, context, dtype=dtype, rngs=rngs) if context else None
        self.first = Linear(width, hidden, dtype=dtype, rngs=rngs)
        self.last = Linear(hidden, width, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        h: Float[Array, "B T C"],
        embedding: Rows | None,
        keys: Key[Array, " B"] | None = None,
        angles: Float[Array, "T half"] | None = None,
        mask: Bool[Array, "T T"] | None = None,
        context: Float[Array, "B S F"] | None = None,
    ) -> Float[Array, "B T C"]:
        return self._branches(h, embedding, keys, lambda x: (self.attention(x, angles, mask), None), context)[0]

    def cached(
        self,
        h: Float[Array, "B T C"],
        embedding: Rows | None,
        angles: Float[Array, "T half"] | None,
        mask: Bool[Array, "T L"],
        start: Int[Array, ""] | int,
        memory: Memory,
    ) -> tuple[Float[Array, "B T C"], Memory]:
        """Tokens from `start` on, with keys and values of a whole sequence; see `SelfAttention.cached`."""
        attend = lambda x: self.attention.cached(x, angles, mask, start, memory)
        return self._branches(h, embedding, None, attend)

    def _branches(
        self,
        h: Float[Array, "B T C"],
        embedding: Rows | None,
        keys: Key[Array, " B"] | None,
        attend: Callable[[Float[Array, "B T C"]], tuple[Float[Array, "B T C"], Any]],
        context: Float[Array, "B S F"] | None = None,
    ) -> tuple[Float[Array, "B T C"], Any]:
        scale1, shift1, gate1, scale2, shift2, gate2 = steer(self.modulation, embedding, h)
        branch, memory = attend(modulate(h, scale1, shift1))
        h = h + gate1 * dropout(branch, self.rate, keys, self.site)
        if self.context is not None and context is not None:
            h = h + self.context(layer_norm(h), context)
        branch = self.last(jax.nn.gelu(self.first(modulate(h, scale2, shift2, self.mlp_epsilon))))
        return h + gate2 * dropout(branch, self.rate, keys, self.site + 1), memory
