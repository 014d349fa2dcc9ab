"""The residual block of DDPM++ and ADM (arXiv 2011.13456 app. H; 2105.05233 sec. 3), with optional attention.

h = conv(dropout(silu(adaptive_norm(conv(resample(silu(norm(x)))))))), output (resample(x) + h) / sqrt(2); the second
convolution starts at zero. Resampling inside the block (BigGAN's) halves by averaging and doubles by repeating. DDPM's
block (2006.11239) adds the embedding before the second norm instead, and does not divide by sqrt(2).
"""

import math
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from jaxdiff.networks.attention import CrossAttention, SelfAttention
from jaxdiff.networks.dropout import dropout
from jaxdiff.networks.layers import Conv, Linear
from jaxdiff.networks.norms import GroupNorm

Keys: TypeAlias = Key[Array, " B"] | None
Context: TypeAlias = Float[Array, "B S F"] | None


def halve(x: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
    """The average of each 2 x 2 square."""
    size, height, width, channels = x.shape
    return x.reshape(size, height // 2, 2, width // 2, 2, channels).mean((2, 4))


def double(x: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
    """Each pixel as a 2 x 2 square."""
    size, height, width, channels = x.shape
    wide = jnp.broadcast_to(x[:, :, None, :, None], (size, height, 2, width, 2, channels))
    return wide.reshape(size, 2 * height, 2 * width, channels)


class Residual(nnx.Module):
    """Feature maps (B, H, W, inputs) to (B, H', W', outputs).

    Args:
        inputs, outputs: channels.
        embedding: width of the embedding that scales and shifts the second norm.
        norm: makes a group norm for a number of channels.
        resample: `halve`, `double` or None.
        heads: attention heads after the convolutions, 0 for no attention.
        context: features of a sequence that is attended to after that, 0 for none.
        circular: the left and the right edge are neighbours.
        site: number of its dropout in the network.
        additive: add the embedding before the second norm, instead of scaling and shifting after it.
        scale: factor of the sum of a branch and what it is added to.
        flash: see `SelfAttention`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        embedding: int,
        norm: Callable[[int], GroupNorm],
        resample: Callable[[Array], Array] | None = None,
        heads: int = 0,
        context: int = 0,
        circular: bool = False,
        rate: float | int,
        site: int,
        additive: bool = False,
        scale: float | int = math.sqrt(0.5),
        flash: bool = False,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.resample, self.rate, self.site, self.additive, self.scale = resample, rate, site, additive, scale
        self.first_norm = norm(inputs)
        self.first = Conv(inputs, outputs, circular=circular, dtype=dtype, rngs=rngs)
        self.modulation = Linear(embedding, outputs if additive else 2 * outputs, dtype=dtype, rngs=rngs)
        self.last_norm = norm(outputs)
        self.last = Conv(outputs, outputs, circular=circular, zero=True, dtype=dtype, rngs=rngs)
        self.skip = Linear(inputs, outputs, dtype=dtype, rngs=rngs) if inputs != outputs else None
        self.attention_norm = norm(outputs) if heads else None
        kind = {"zero": True, "flash": flash, "dtype": dtype}
        self.attention = SelfAttention(outputs, heads, **kind, rngs=rngs) if heads else None
        asks = heads > 0 and context > 0
        self.context_norm = norm(outputs) if asks else None
        self.context = CrossAttention(outputs, heads, context, dtype=dtype, rngs=rngs) if asks else None

    def __call__(
        self, x: Float[Array, "B H W inputs"], embedding: Float[Array, "b E"], keys: Keys, context: Context = None
    ) -> Float[Array, "B h w outputs"]:
        h = jax.nn.silu(self.first_norm(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h, rows = self.first(h), self.modulation(embedding)
        h = self.last_norm(h + rows[:, None, None]) if self.additive else self.last_norm(h, *jnp.split(rows, 2, -1))
        h = jax.nn.silu(h)
        h = self.last(dropout(h, self.rate, keys, self.site))
        h = ((x if self.skip is None else self.skip(x)) + h) * self.scale
        if self.attention is not None and self.attention_norm is not None:
            tokens = self.attention_norm(h).reshape(h.shape[0], -1, h.shape[-1])
            h = (h + self.attention(tokens).reshape(h.shape)) * self.scale
        if self.context is not None and self.context_norm is not None and context is not None:
            tokens = self.context_norm(h).reshape(h.shape[0], -1, h.shape[-1])
            h = h + self.context(tokens, context).reshape(h.shape)
        return h


class Resample(nnx.Module):
    """Resampling without a residual branch (arXiv 2006.11239): a strided convolution, or doubling and a convolution."""

    def __init__(
        self,
        channels: int,
        *,
        up: bool,
        centred: bool = False,
        circular: bool = False,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.up = up
        options = {"centred": centred, "circular": circular, "dtype": dtype, "rngs": rngs}
        self.conv = Conv(channels, channels, stride=1 if up else 2, **options)

    def __call__(
        self, x: Float[Array, "B H W C"], embedding: Float[Array, "b E"], keys: Keys, context: Context = None
    ) -> Float[Array, "B h w C"]:
        return self.conv(double(x) if self.up else x)
