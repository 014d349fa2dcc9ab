"""Diffusion Transformer with adaLN-zero (arXiv 2212.09748) for images.

The image is cut into patches, each a token; blocks of attention and MLP are modulated by the embedding of time and
class; the last layer (adaptive norm and a linear map to patches) starts at zero.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from jaxdiff.networks.block import Block, modulate
from jaxdiff.networks.checks import check_inputs, check_rate
from jaxdiff.networks.embeddings import Embedding
from jaxdiff.networks.layers import Linear
from jaxdiff.networks.norms import EPSILON
from jaxdiff.networks.patches import check_patch, patches, unpatches
from jaxdiff.networks.positions import rotary_2d, sincos_2d
from jaxdiff.types import Condition, Time


class DiT(nnx.Module):
    """Diffusion Transformer for images (B, H, W, C). The defaults are DiT-S/2.

    Args:
        shape: (H, W, C); H and W must be divisible by `patch`.
        patch: side of a patch in pixels.
        width: channels of a token, divisible by `heads` and by 4.
        depth: blocks.
        heads: attention heads.
        mlp_ratio: hidden units of a block's MLP, in units of `width`.
        num_classes: labels 0 ... num_classes - 1; label num_classes is the null label. 0: unconditional.
        dropout: probability in [0, 1) on both branches of a block, applied only where a call brings keys.
        rotary: axial rotary positions in attention (then width / heads must be divisible by 4), else fixed 2-D
            sinusoids added to the tokens.
        qk_norm: RMS-normalise queries and keys.
        mlp_epsilon: added to the variance in the norm before an MLP.
        max_period: of the sinusoids of 1000 t, see `time_features`.
        two_times: accept a second time s.
        out_channels: channels of the output, C by default.
        dtype: compute dtype; parameters, embeddings, statistics, softmax and the output are float32.
        remat: recompute each block in the backward pass instead of storing it.
        rngs: where the initial parameters come from.

    Raises:
        ValueError: sizes that `patch`, `heads` or the positions do not divide; a dropout probability outside [0, 1).
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        patch: int = 2,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        mlp_ratio: float | int = 4,
        num_classes: int = 0,
        dropout: float | int = 0.0,
        rotary: bool = False,
        qk_norm: bool = True,
        mlp_epsilon: float = EPSILON,
        max_period: float | int = 10000,
        two_times: bool = False,
        out_channels: int | None = None,
        dtype: DTypeLike = jnp.float32,
        remat: bool = False,
        rngs: nnx.Rngs,
    ):
        check_rate(dropout)
        check_patch(shape, patch)
        if width % 4 or (rotary and (width // heads) % 4):
            raise ValueError(
                f"positions on a grid need {'width / heads' if rotary else 'width'} divisible by 4, got width {width} "
                f"and {heads} heads; choose width = 4 * heads * n"
            )
        self.shape, self.num_classes, self.two_times, self.remat = tuple(shape), num_classes, two_times, remat
        self.patch, self.rotary, self.head_dim = patch, rotary, width // heads
        self.dtype = jnp.dtype(dtype)
        known = {"num_classes": num_classes, "two_times": two_times, "max_period": max_period}
        self.embedding = Embedding(features=256, width=width, **known, rngs=rngs)
        self.stem = Linear(patch**2 * shape[-1], width, dtype=dtype, rngs=rngs)
        kind = {"hidden": int(mlp_ratio * width), "qk_norm": qk_norm, "mlp_epsilon": mlp_epsilon, "rate": dropout}
        self.blocks = nnx.List([Block(width, heads, **kind, site=2 * i, dtype=dtype, rngs=rngs) for i in range(depth)])
        self.modulation = Linear(width, 2 * width, zero=True, dtype=dtype, rngs=rngs)
        self.out = Linear(width, patch**2 * (out_channels or shape[-1]), zero=True, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "B ..."],
        t: Time,
        cond: Condition = None,
        *,
        s: Time | None = None,
        key: Key[Array, "..."] | None = None,
    ) -> Float[Array, "B ..."]:
        """The network's output in prediction space.

        Args:
            x: network input (B, H, W, C).
            t: time in [0, 1], 0 = data, shape () or (B,).
            cond: integer labels (B,) in [0, num_classes]; None is the null label. A label outside gives NaN.
            s: second time, as `t`; None is s = t. Only with `two_times`.
            key: one typed key per example (B,) for dropout; None for no dropout.

        Returns:
            float32 (B, H, W, out_channels).

        Raises:
            ValueError: a shape or dtype other than these, or a `cond` or `s` that the network was not built for.
        """
        contract = {"shape": self.shape, "num_classes": self.num_classes, "two_times": self.two_times}
        check_inputs(x, t, cond, s, key, **contract)
        embedding = self.embedding(t, cond, s)
        height, width = self.shape[0] // self.patch, self.shape[1] // self.patch
        h, angles = self.stem(patches(x, self.patch)), None
        if self.rotary:
            angles = rotary_2d(height, width, self.head_dim)
        else:
            h = h + sincos_2d(height, width, h.shape[-1]).astype(h.dtype)
        for block in self.blocks:
            h = (jax.checkpoint(block) if self.remat else block)(h, embedding, key, angles)
        scale, shift = jnp.split(self.modulation(embedding)[:, None], 2, -1)
        tokens = self.out(modulate(h, scale, shift)).astype(jnp.float32)
        return unpatches(tokens, self.shape[0], self.shape[1], self.patch)
