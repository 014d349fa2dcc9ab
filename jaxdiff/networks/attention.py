"""Multi-head attention over a set or sequence of tokens, or of another one (arXiv 1706.03762), softmax in float32.

softmax(q k^T / sqrt(d)) v per head, optionally with RMS-normalised q and k (arXiv 2302.05442) and with rotary
positions (arXiv 2104.09864): channel pair i of a token is turned by its angle i, so only differences of angles count.
It knows nothing of images and sequences: positions come in as angles, and who sees whom as a mask.
"""

from typing import TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jaxdiff.networks.layers import Linear
from jaxdiff.networks.norms import rms_norm

Heads: TypeAlias = Float[Array, "B T N D"]
Memory: TypeAlias = tuple[Float[Array, "B L N D"], Float[Array, "B L N D"]]
"""Keys and values of a whole sequence, each (B, L, heads, width / heads) in the compute dtype."""


def rotate(x: Float[Array, "B T N D"], angles: Float[Array, "T half"]) -> Float[Array, "B T N D"]:
    """Turn the pair of channels (i, i + D/2) of each token by `angles[:, i]` radians; float32 inside, dtype kept."""
    cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
    a, b = jnp.split(x.astype(jnp.float32), 2, -1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(x.dtype)


def attend(
    q: Float[Array, "B T N D"],
    k: Float[Array, "B S N D"],
    v: Float[Array, "B S N D"],
    mask: Bool[Array, "T S"] | None = None,
) -> Float[Array, "B T N D"]:
    """softmax(q k^T / sqrt(D)) v of each head; entry (i, j) of `mask` says whether i sees j, each must see one.

    On a GPU it is `jax.nn.dot_product_attention`. CPUs are twice as fast, forwards and back, with heads before tokens
    and what divides the weights dividing the sum: products contract over contiguous rows, and no normalised weights
    are stored. An H200 is slower with that order.
    """
    if jax.default_backend() == "gpu":
        return jax.nn.dot_product_attention(q, k, v, mask=None if mask is None else mask[None, None])
    q, k, v = (a.swapaxes(1, 2) for a in (q, k, v))
    scores = jnp.matmul(q, k.swapaxes(2, 3), preferred_element_type=jnp.float32)
    if mask is not None:
        scores = jnp.where(mask, scores, -jnp.inf)
    largest = jax.lax.stop_gradient(scores.max(-1, keepdims=True))
    weights = jnp.exp((scores - largest) * q.shape[-1] ** -0.5)
    mixed = jnp.matmul(weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return (mixed / weights.sum(-1, keepdims=True)).swapaxes(1, 2).astype(v.dtype)


class SelfAttention(nnx.Module):
    """Tokens (B, T, width) to (B, T, width); `zero` makes the output zero at the start of training.

    With `flash`, cuDNN's fused kernel attends where there is no mask and the default backend is a GPU, without storing
    T x T weights; it has no forward-mode derivatives (`jax.jvp`).

    Raises:
        ValueError: a width that `heads` does not divide; `flash` in float32, or with heads that cuDNN does not take.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        qk_norm: bool = False,
        zero: bool = False,
        flash: bool = False,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        if width % heads:
            raise ValueError(f"heads must divide the width {width}, got {heads}; choose width = heads * head size")
        head, kind = width // heads, jnp.dtype(dtype)
        if flash and (kind not in (jnp.bfloat16, jnp.float16) or head % 8 or head > 128):
            raise ValueError(
                f"flash attention needs dtype bfloat16 or float16 and heads of 8, 16, ..., 128 channels, got {kind} "
                f"and {head}; leave flash out or choose others"
            )
        self.heads, self.flash = heads, flash
        self.qkv = Linear(width, 3 * width, dtype=dtype, rngs=rngs)
        self.out = Linear(width, width, zero=zero, dtype=dtype, rngs=rngs)
        self.q_scale = nnx.Param(jnp.ones(width // heads)) if qk_norm else None
        self.k_scale = nnx.Param(jnp.ones(width // heads)) if qk_norm else None

    def __call__(
        self,
        x: Float[Array, "B T width"],
        angles: Float[Array, "T half"] | None = None,
        mask: Bool[Array, "T T"] | None = None,
    ) -> Float[Array, "B T width"]:
        """Attend from every token to every token.

        Args:
            x: tokens (B, T, width).
            angles: rotary positions in radians, (T, width / heads / 2); None for none.
            mask: entry (i, j) says whether token i sees token j, (T, T); None for all. Each token must see one.
        """
        return self._attend(*self._project(x, angles), mask)

    def cached(
        self,
        x: Float[Array, "B T width"],
        angles: Float[Array, "T half"] | None,
        mask: Bool[Array, "T L"],
        start: Int[Array, ""] | int,
        memory: Memory,
    ) -> tuple[Float[Array, "B T width"], Memory]:
        """Attend from tokens start ... start + T - 1 to a whole sequence, of which `memory` has keys and values.

        Those of x are put into the memory first, so that x sees itself as far as `mask` lets it.
        """
        q, *new = self._project(x, angles)
        k, v = (jax.lax.dynamic_update_slice_in_dim(old, a, start, 1) for old, a in zip(memory, new, strict=True))
        return self._attend(q, k, v, mask), (k, v)

    def _project(
        self, x: Float[Array, "B T width"], angles: Float[Array, "T half"] | None
    ) -> tuple[Heads, Heads, Heads]:
        # Head by head (q, k, v of one, then of the next): split over devices by heads, each keeps its three together.
        q, k, v = jnp.split(self.qkv(x).reshape(*x.shape[:2], self.heads, -1), 3, -1)
        if self.q_scale is not None and self.k_scale is not None:
            q, k = rms_norm(q, self.q_scale[...]), rms_norm(k, self.k_scale[...])
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)
        return q, k, v

    def _attend(
        self, q: Heads, k: Float[Array, "B S N D"], v: Float[Array, "B S N D"], mask: Bool[Array, "T S"] | None
    ) -> Float[Array, "B T width"]:
        if self.flash and mask is None and jax.default_backend() == "gpu":
            mixed = jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
        else:
            mixed = attend(q, k, v, mask)
        return self.out(mixed.reshape(*q.shape[:2], -1))


class CrossAttention(nnx.Module):
    """What tokens (B, T, width) find in a context (B, S, features): (B, T, width), zero at the start of training."""

    def __init__(self, width: int, heads: int, features: int, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        if width % heads:
            raise ValueError(f"heads must divide the width {width}, got {heads}; choose width = heads * head size")
        self.heads = heads
        self.q = Linear(width, width, dtype=dtype, rngs=rngs)
        self.kv = Linear(features, 2 * width, dtype=dtype, rngs=rngs)
        self.out = Linear(width, width, zero=True, dtype=dtype, rngs=rngs)

    def __call__(
        self, x: Float[Array, "B T width"], context: Float[Array, "B S features"]
    ) -> Float[Array, "B T width"]:
        q = self.q(x).reshape(*x.shape[:2], self.heads, -1)
        k, v = jnp.split(self.kv(context).reshape(*context.shape[:2], self.heads, -1), 2, -1)
        return self.out(attend(q, k, v).reshape(x.shape))
