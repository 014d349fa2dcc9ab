"""Diffusion Transformer with adaLN-zero (arXiv 2212.09748) for images.

The image is cut into patches, each a token; blocks of attention and MLP are modulated by the embedding of time and
class; the last layer (adaptive norm and a linear map to patches) starts at zero. Sizes that are no multiple of a patch
are padded at the bottom and the right, and the output is cut back.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from jaxdiff.networks.block import Block, modulate
from jaxdiff.networks.checks import check_inputs, check_rate
from jaxdiff.networks.conditions import Conditions, joined, label_of, latest
from jaxdiff.networks.embeddings import Embedding
from jaxdiff.networks.layers import Linear
from jaxdiff.networks.norms import EPSILON
from jaxdiff.networks.patches import pad, padded, patches, unpatches
from jaxdiff.networks.positions import rotary_2d, sincos_2d
from jaxdiff.types import Condition, Time


class DiT(nnx.Module):
    """Diffusion Transformer for images (B, H, W, C). The defaults are DiT-S/2.

    Args:
        shape: (H, W, C).
        patch: side of a patch in pixels.
        width: channels of a token, divisible by `heads` and by 4.
        depth: blocks.
        heads: attention heads.
        mlp_ratio: hidden units of a block's MLP, in units of `width`.
        num_classes: labels 0 ... num_classes - 1; label num_classes is the null label. 0: unconditional.
        image_features, embedding_features, context_features: what a condition may hold beside a label, see
            `jaxdiff.networks.conditions`: channels of a picture that is joined to x, numbers of a vector, features of
            the elements of a sequence that every block attends to; 0 for none.
        clocks: take a time for each pixel, 0 where it is known; the times are then joined to x.
        dropout: probability in [0, 1) on both branches of a block, applied only where a call brings keys.
        rotary: axial rotary positions in attention (then width / heads must be divisible by 4), else fixed 2-D
            sinusoids added to the tokens.
        qk_norm: RMS-normalise queries and keys.
        mlp_epsilon: added to the variance in the norm before an MLP.
        max_period: of the sinusoids of 1000 t, see `time_features`.
        two_times: accept a second time s.
        out_channels: channels of the output, C by default.
        dtype: compute dtype; parameters, embeddings, statistics, softmax and the output are float32.
        flash: attend by cuDNN's fused kernel on GPUs, in half precision; without forward-mode derivatives there.
        remat: recompute each block in the backward pass instead of storing it.
        rngs: where the initial parameters come from.

    Raises:
        ValueError: a width that `heads` or the positions do not divide; a dropout probability outside [0, 1); `flash`
            with a dtype or heads that cuDNN does not take.
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
        image_features: int = 0,
        embedding_features: int = 0,
        context_features: int = 0,
        clocks: bool = False,
        dropout: float | int = 0.0,
        rotary: bool = False,
        qk_norm: bool = True,
        mlp_epsilon: float = EPSILON,
        max_period: float | int = 10000,
        two_times: bool = False,
        out_channels: int | None = None,
        dtype: DTypeLike = jnp.float32,
        flash: bool = False,
        remat: bool = False,
        rngs: nnx.Rngs,
    ):
        check_rate(dropout)
        if width % 4 or (rotary and (width // heads) % 4):
            raise ValueError(
                f"positions on a grid need {'width / heads' if rotary else 'width'} divisible by 4, got width {width} "
                f"and {heads} heads; choose width = 4 * heads * n"
            )
        self.shape, self.num_classes, self.two_times, self.remat = tuple(shape), num_classes, two_times, remat
        self.patch, self.rotary, self.head_dim = patch, rotary, width // heads
        self.padded, self.clocks, self.dtype = padded(shape, patch), clocks, jnp.dtype(dtype)
        self.conditions = Conditions(image=image_features, embedding=embedding_features, context=context_features)
        known = {"num_classes": num_classes, "two_times": two_times, "max_period": max_period}
        self.embedding = Embedding(features=256, width=width, **known, vector=embedding_features, rngs=rngs)
        inputs = shape[-1] * (2 if clocks else 1) + image_features
        self.stem = Linear(patch**2 * inputs, width, dtype=dtype, rngs=rngs)
        kind = {"hidden": int(mlp_ratio * width), "qk_norm": qk_norm, "mlp_epsilon": mlp_epsilon, "rate": dropout}
        kind |= {"context": context_features, "flash": flash}
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
            t: time in [0, 1], 0 = data, shape () or (B,); with `clocks` also (B, H), (B, H, W) or (B, H, W, C),
                1 for an axis along which it is shared. The embedding takes the latest.
            cond: integer labels (B,) in [0, num_classes], or a dict with any of `label`, `image` (B, H, W,
                image_features), `embedding` (B, embedding_features), `context` (B, S, context_features). What is left
                out is null: the label num_classes, zeros of the others. A label outside gives NaN.
            s: second time, as `t`; None is s = t. Only with `two_times`.
            key: one typed key per example (B,) for dropout; None for no dropout.

        Returns:
            float32 (B, H, W, out_channels).

        Raises:
            ValueError: a shape or dtype other than these, or a `cond` or `s` that the network was not built for.
        """
        contract = {"shape": self.shape, "num_classes": self.num_classes, "two_times": self.two_times}
        contract["clocks"] = 3 * self.clocks
        check_inputs(x, t, label_of(cond), s, key, **contract)
        given = self.conditions.parts(cond, x)
        embedding = self.embedding(latest(t), given.label, s, given.embedding)
        height, width = self.padded[0] // self.patch, self.padded[1] // self.patch
        h = pad(joined(x, t if self.clocks else None, given.image), self.padded)
        h, angles = self.stem(patches(h, self.patch)), None
        if self.rotary:
            angles = rotary_2d(height, width, self.head_dim)
        else:
            h = h + sincos_2d(height, width, h.shape[-1]).astype(h.dtype)
        for block in self.blocks:
            h = (jax.checkpoint(block) if self.remat else block)(h, embedding, key, angles, None, given.context)
        scale, shift = jnp.split(self.modulation(embedding)[:, None], 2, -1)
        tokens = self.out(modulate(h, scale, shift)).astype(jnp.float32)
        return unpatches(tokens, *self.padded, self.patch)[:, : self.shape[0], : self.shape[1]]
