"""U-Net of DDPM++/ADM grade (arXiv 2006.11239; 2011.13456 app. H; 2105.05233 sec. 3).

Levels of residual blocks with adaptive group norm, each half the size of the one before; every feature map on the way
down is joined (concatenated) to its mirror image on the way up. The output convolution starts at zero. Sizes that do
not halve often enough are padded at the bottom and the right, and the output is cut back. The defaults are DDPM++'s;
DDPM itself has `additive=True, residual_scale=1, resample_with_blocks=False`.
"""

import math
from functools import partial
from itertools import count

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from jaxdiff.networks.checks import check_inputs, check_rate
from jaxdiff.networks.conditions import Conditions, joined, label_of, latest
from jaxdiff.networks.embeddings import Embedding
from jaxdiff.networks.layers import Conv
from jaxdiff.networks.norms import EPSILON, GroupNorm
from jaxdiff.networks.patches import pad, padded, patches, unpatches
from jaxdiff.networks.residual import Resample, Residual, double, halve
from jaxdiff.types import Condition, Time


class UNet(nnx.Module):
    """U-Net for images (B, H, W, C).

    Args:
        shape: (H, W, C).
        channels: channels of the first level.
        multipliers: channels of each level, in units of `channels`; their number is the number of levels.
        patch: side of the squares of pixels that become channels before the first level (and pixels again after the
            last): the first level then has a patch-th of the size, at a fraction of the cost.
        blocks: residual blocks per level on the way down (one more on the way up).
        attention: heights (H / patch on the first level) of the levels whose blocks attend. A height that no level has
            is left out, so that the default serves many sizes. The middle attends too, as in the papers; () gives a
            network without attention.
        head_dim: channels per attention head; a level with fewer channels has one head.
        groups: largest number of groups of a group norm; at least `group_channels` stay in each group.
        group_channels: see `groups`.
        epsilon: added to the variance in a group norm.
        dropout: probability in [0, 1), applied only where a call brings keys.
        num_classes: labels 0 ... num_classes - 1; label num_classes is the null label. 0: unconditional.
        image_features, embedding_features, context_features: what a condition may hold beside a label, see
            `jaxdiff.networks.conditions`: channels of a picture that is joined to x, numbers of a vector, features of
            the elements of a sequence that the blocks with attention attend to; 0 for none.
        clocks: take a time for each pixel, 0 where it is known; the times are then joined to x.
        circular: the left and the right edge are neighbours, as in a panorama; W must then halve often enough.
        resample_with_blocks: change the size in residual blocks (arXiv 2105.05233), else by one convolution.
        centred: where one convolution halves the size, its windows stand on pixels 0, 2, ..., not on 1, 3, ....
        additive: the embedding is added in a block (arXiv 2006.11239), instead of scaling and shifting its second norm.
        residual_scale: factor of the sum of a branch and what it is added to; 1 in arXiv 2006.11239 and 2105.05233.
        max_period: of the sinusoids of 1000 t, see `time_features`.
        two_times: accept a second time s.
        out_channels: channels of the output, C by default.
        dtype: compute dtype; parameters, embeddings, statistics, softmax and the output are float32.
        flash: attend by cuDNN's fused kernel on GPUs, in half precision; without forward-mode derivatives there.
        remat: recompute each block in the backward pass instead of storing it.
        rngs: where the initial parameters come from.

    Raises:
        ValueError: a W that is `circular` and would need padding; head_dim does not divide the channels of a level that
            attends; a dropout probability outside [0, 1); `flash` with a dtype or heads that cuDNN does not take.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        channels: int = 128,
        multipliers: tuple[int, ...] = (1, 2, 2, 2),
        patch: int = 1,
        blocks: int = 2,
        attention: tuple[int, ...] = (16, 8),
        head_dim: int = 64,
        groups: int = 32,
        group_channels: int = 4,
        epsilon: float = EPSILON,
        dropout: float | int = 0.0,
        num_classes: int = 0,
        image_features: int = 0,
        embedding_features: int = 0,
        context_features: int = 0,
        clocks: bool = False,
        circular: bool = False,
        resample_with_blocks: bool = True,
        centred: bool = False,
        additive: bool = False,
        residual_scale: float | int = math.sqrt(0.5),
        max_period: float | int = 10000,
        two_times: bool = False,
        out_channels: int | None = None,
        dtype: DTypeLike = jnp.float32,
        flash: bool = False,
        remat: bool = False,
        rngs: nnx.Rngs,
    ):
        check_rate(dropout)
        self.padded = padded(shape, patch * 2 ** (len(multipliers) - 1))
        if circular and self.padded[1] != shape[1]:
            raise ValueError(
                f"a circular width must be divisible by patch 2^(levels - 1) = {patch * 2 ** (len(multipliers) - 1)}, "
                f"got {shape[1]}; use fewer multipliers or another width"
            )
        self.conditions = Conditions(image=image_features, embedding=embedding_features, context=context_features)
        self.clocks = clocks
        self.shape, self.num_classes, self.two_times, self.remat = tuple(shape), num_classes, two_times, remat
        self.blocks, self.patch = blocks, patch
        features = 4 * channels
        known = {"num_classes": num_classes, "two_times": two_times, "max_period": max_period}
        self.embedding = Embedding(features=channels, width=features, **known, vector=embedding_features, rngs=rngs)
        inputs = shape[-1] * (2 if clocks else 1) + image_features
        options = {"circular": circular, "dtype": dtype, "rngs": rngs}
        self.stem = Conv(patch**2 * inputs, channels, **options)
        norm = partial(GroupNorm, groups=groups, least=group_channels, epsilon=epsilon)
        kind = {"embedding": features, "norm": norm, "additive": additive, "scale": residual_scale, "flash": flash}
        residual = partial(Residual, **kind, context=context_features, rate=dropout, **options)
        heights = [self.padded[0] // patch >> level for level in range(len(multipliers))]
        wide = [channels * multiplier for multiplier in multipliers]
        heads = [_heads(c, head_dim) if height in attention else 0 for c, height in zip(wide, heights, strict=True)]
        sites = count()

        def resized(width: int, up: bool) -> Residual | Resample:
            if resample_with_blocks:
                return residual(width, width, resample=double if up else halve, site=next(sites))
            return Resample(width, up=up, centred=centred and not up, **options)

        now, joined, down = channels, [channels], []
        for level, outputs in enumerate(wide):
            for _ in range(blocks):
                down.append(residual(now, outputs, heads=heads[level], site=next(sites)))
                now = outputs
                joined.append(now)
            if level + 1 < len(wide):
                down.append(resized(now, up=False))
                joined.append(now)
        self.down = nnx.List(down)
        middle_heads = _heads(now, head_dim) if attention else 0
        self.middle = nnx.List(
            [residual(now, now, heads=middle_heads, site=next(sites)), residual(now, now, site=next(sites))]
        )
        up = []
        for level, outputs in reversed(list(enumerate(wide))):
            for _ in range(blocks + 1):
                up.append(residual(now + joined.pop(), outputs, heads=heads[level], site=next(sites)))
                now = outputs
            if level:
                up.append(resized(now, up=True))
        self.up = nnx.List(up)
        self.norm = norm(now)
        self.out = Conv(now, patch**2 * (out_channels or shape[-1]), zero=True, **options)

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
        run = lambda block, h: (jax.checkpoint(block) if self.remat else block)(h, embedding, key, given.context)
        height, width = self.padded[0] // self.patch, self.padded[1] // self.patch
        h = pad(joined(x, t if self.clocks else None, given.image), self.padded)
        h = self.stem(patches(h, self.patch).reshape(x.shape[0], height, width, -1))
        skips = [h]
        for block in self.down:
            h = run(block, h)
            skips.append(h)
        for block in self.middle:
            h = run(block, h)
        for place, block in enumerate(self.up):
            # A level is blocks + 1 residual blocks that join a skip, then one that doubles the size.
            if place % (self.blocks + 2) <= self.blocks:
                h = jnp.concatenate([h, skips.pop()], -1)
            h = run(block, h)
        y = self.out(jax.nn.silu(self.norm(h))).astype(jnp.float32)
        y = unpatches(y.reshape(x.shape[0], height * width, -1), *self.padded, self.patch)
        return y[:, : self.shape[0], : self.shape[1]]


def _heads(channels: int, head_dim: int) -> int:
    if channels > head_dim and channels % head_dim:
        raise ValueError(
            f"head_dim must divide the {channels} channels of a level that attends, got {head_dim}; choose "
            f"{next(d for d in range(head_dim, 0, -1) if channels % d == 0)} or other multipliers"
        )
    return max(1, channels // head_dim)
