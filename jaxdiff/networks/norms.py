"""Normalisation with float32 statistics under any compute dtype.

GroupNorm (arXiv 1803.08494), LayerNorm without parameters (arXiv 1607.06450), RMSNorm (arXiv 1910.07467), and
their adaptive form (arXiv 2105.05233, 2212.09748): norm(x) (1 + scale) + shift, scale and shift from an embedding.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

EPSILON = 1e-6


def layer_norm(x: Float[Array, "... C"], epsilon: float = EPSILON) -> Float[Array, "... C"]:
    """Zero mean and unit variance over the last axis, but for `epsilon` in the variance; dtype kept."""
    wide = x.astype(jnp.float32)
    centred = wide - wide.mean(-1, keepdims=True)
    return (centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + epsilon)).astype(x.dtype)


def rms_norm(x: Float[Array, "... C"], scale: Float[Array, " C"]) -> Float[Array, "... C"]:
    """Unit mean square over the last axis, times `scale`; dtype kept."""
    wide = x.astype(jnp.float32)
    return (wide * jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + EPSILON) * scale).astype(x.dtype)


def groups_of(channels: int, groups: int, least: int = 4) -> int:
    """The largest number of equal groups that is at most `groups` and leaves at least `least` channels in each.

    With one channel a group the norm would erase a 1 x 1 feature map.
    """
    return max(g for g in range(1, max(1, min(groups, channels // least)) + 1) if channels % g == 0)


class GroupNorm(nnx.Module):
    """Zero mean and unit variance over space and each group of channels, then an affine map per channel.

    Args:
        channels: of the feature maps.
        groups, least: largest number of groups, and smallest of channels in each; see `groups_of`.
        epsilon: added to the variance.
    """

    def __init__(self, channels: int, *, groups: int = 32, least: int = 4, epsilon: float = EPSILON):
        self.groups, self.epsilon = groups_of(channels, groups, least), epsilon
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(
        self,
        x: Float[Array, "B H W C"],
        scale: Float[Array, "#B C"] | None = None,
        shift: Float[Array, "#B C"] | None = None,
    ) -> Float[Array, "B H W C"]:
        """Normalise; then (1 + scale) times and + shift, whose one row may serve all examples. Dtype kept."""
        size, channels = x.shape[0], x.shape[-1]
        wide = x.astype(jnp.float32)
        # Space first: one pass with contiguous channels, and only (B, C) numbers are left to regroup.
        pixels = wide.reshape(size, -1, channels)
        grouped = lambda a: a.mean(1).reshape(size, self.groups, -1).mean(-1)
        mean, square = grouped(pixels), grouped(jnp.square(pixels))
        rate = jax.lax.rsqrt(jnp.maximum(square - jnp.square(mean), 0) + self.epsilon)
        spread = lambda a: jnp.repeat(a, channels // self.groups, axis=-1)
        # Everything that depends on the channel alone becomes one multiply-add over the feature map.
        slope = spread(rate) * self.scale[...]
        offset = self.bias[...] - spread(mean) * slope
        if scale is not None:
            slope, offset = slope * (1 + scale.astype(jnp.float32)), offset * (1 + scale.astype(jnp.float32))
        if shift is not None:
            offset = offset + shift.astype(jnp.float32)
        return (wide * slope[:, None, None] + offset[:, None, None]).astype(x.dtype)
