"""Convolutional autoencoder with a Gaussian bottleneck, the first stage of latent diffusion (arXiv 2112.10752).

    encode(x) = (m, log s)        q(z | x) = N(m, s^2), independent numbers
    decode(z) = x                 f = patch 2^(levels - 1): pictures (H, W, C), latents (H / f, W / f, latent)

Levels of residual blocks, each half the size of the one before, and the same on the way back, without skips between the
two and without attention: the parameters serve pictures of any size that f divides.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from jaxdiff.networks.functional import functional, structure
from jaxdiff.networks.layers import Conv, Linear
from jaxdiff.networks.norms import GroupNorm
from jaxdiff.networks.patches import patches, unpatches
from jaxdiff.networks.residual import double, halve
from jaxdiff.types import Params

Encode = Callable[[Params, Array], tuple[Array, Array]]
Decode = Callable[[Params, Array], Array]


class Autoencoder(nnx.Module):
    """Pictures (B, H, W, C) to the law of their latents (B, H / f, W / f, latent), and latents to pictures.

    Args:
        shape: (H, W, C); f = patch 2^(levels - 1) must divide H and W.
        channels: channels of the first level.
        multipliers: channels of each level, in units of `channels`; their number is the number of levels.
        patch: side of the squares of pixels that become channels before the first level, and pixels again at the end.
        blocks: residual blocks per level of the encoder; the decoder has one more.
        latent: channels of the latents.
        groups: largest number of groups of a group norm.
        dtype: compute dtype; parameters, statistics and outputs are float32.
        remat: recompute each block in the backward pass instead of storing it.
        rngs: where the initial parameters come from.

    Raises:
        ValueError: no levels, or H or W that f does not divide.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        channels: int = 64,
        multipliers: tuple[int, ...] = (1, 2, 4),
        patch: int = 1,
        blocks: int = 2,
        latent: int = 4,
        groups: int = 32,
        dtype: DTypeLike = jnp.float32,
        remat: bool = False,
        rngs: nnx.Rngs,
    ):
        self.shape, self.patch, self.latent, self.remat = tuple(shape), patch, latent, remat
        self.factor = _factor(shape, multipliers, patch)
        wide = [channels * multiplier for multiplier in multipliers]
        block = lambda inputs, outputs: Block(inputs, outputs, groups=groups, dtype=dtype, rngs=rngs)
        pixels = patch**2 * shape[-1]
        self.stem = Conv(pixels, wide[0], dtype=dtype, rngs=rngs)
        down, now = [], wide[0]
        for outputs in wide:
            down.append(nnx.List([block(now if i == 0 else outputs, outputs) for i in range(blocks)]))
            now = outputs
        self.down = nnx.List(down)
        self.encoded_norm = GroupNorm(now, groups=groups)
        self.encoded = Conv(now, 2 * latent, dtype=dtype, rngs=rngs)
        self.decoded = Conv(latent, now, dtype=dtype, rngs=rngs)
        up = []
        for outputs in reversed(wide):
            up.append(nnx.List([block(now if i == 0 else outputs, outputs) for i in range(blocks + 1)]))
            now = outputs
        self.up = nnx.List(up)
        self.norm = GroupNorm(now, groups=groups)
        self.out = Conv(now, pixels, dtype=dtype, rngs=rngs)

    def encode(self, x: Float[Array, "B H W C"]) -> tuple[Float[Array, "B h w c"], Float[Array, "B h w c"]]:
        """The mean and the logarithm of the standard deviation of each latent, float32 (B, H / f, W / f, latent).

        Raises:
            ValueError: pictures of another shape than the module's.
        """
        self._check("x", x, self.shape)
        size, height, width, _ = x.shape
        h = patches(x, self.patch).reshape(size, height // self.patch, width // self.patch, -1)
        h = self.stem(h)
        for level, blocks in enumerate(self.down):
            h = self._run(blocks, halve(h) if level else h)
        h = self.encoded(jax.nn.silu(self.encoded_norm(h))).astype(jnp.float32)
        mean, log_std = jnp.split(h, 2, -1)
        return mean, log_std

    def decode(self, z: Float[Array, "B h w c"]) -> Float[Array, "B H W C"]:
        """Pictures of latents, float32 (B, H, W, C); nothing keeps them in the range of the data.

        Raises:
            ValueError: latents of another shape than `encode` gives.
        """
        height, width = self.shape[0] // self.factor, self.shape[1] // self.factor
        self._check("z", z, (height, width, self.latent))
        h = self.decoded(z)
        for level, blocks in enumerate(self.up):
            h = self._run(blocks, double(h) if level else h)
        h = self.out(jax.nn.silu(self.norm(h))).astype(jnp.float32)
        return unpatches(h.reshape(h.shape[0], -1, h.shape[-1]), self.shape[0], self.shape[1], self.patch)

    def _run(self, blocks: Iterable[Any], h: Array) -> Array:
        for block in blocks:
            h = jax.checkpoint(block)(h) if self.remat else block(h)
        return h

    def _check(self, name: str, x: Array, shape: tuple[int, ...]) -> None:
        if x.shape[1:] != shape or not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(
                f"{name} must be floating with shape (B, {', '.join(map(str, shape))}), got {x.dtype}{list(x.shape)}; "
                "build the autoencoder for this size: its parameters serve every size that its factor divides"
            )


class Block(nnx.Module):
    """(x + conv(silu(norm(conv(silu(norm(x))))))) / sqrt(2), the second convolution zero at the start."""

    def __init__(self, inputs: int, outputs: int, *, groups: int, dtype: DTypeLike, rngs: nnx.Rngs):
        self.first_norm = GroupNorm(inputs, groups=groups)
        self.first = Conv(inputs, outputs, dtype=dtype, rngs=rngs)
        self.last_norm = GroupNorm(outputs, groups=groups)
        self.last = Conv(outputs, outputs, zero=True, dtype=dtype, rngs=rngs)
        self.skip = Linear(inputs, outputs, dtype=dtype, rngs=rngs) if inputs != outputs else None

    def __call__(self, x: Float[Array, "B H W inputs"]) -> Float[Array, "B H W outputs"]:
        h = self.first(jax.nn.silu(self.first_norm(x)))
        h = self.last(jax.nn.silu(self.last_norm(h)))
        return ((x if self.skip is None else self.skip(x)) + h) * math.sqrt(0.5)


def encoder_decoder(
    make: Callable[[nnx.Rngs], nnx.Module],
) -> tuple[Callable[[Key[Array, ""]], Params], Encode, Decode]:
    """Split an autoencoder into `(init, encode, decode)`, pure functions on one plain dict of parameters.

    Args:
        make: builds the module, with methods `encode` and `decode`, from its `nnx.Rngs`; see `functional`.

    Returns:
        init: `init(key) -> params`, compiled.
        encode: `encode(params, x) -> (mean, log_std)`, see `Autoencoder.encode`.
        decode: `decode(params, z) -> x`, see `Autoencoder.decode`.

    Raises:
        ValueError: as `functional` does.

    Example:
        >>> make = lambda rngs: Autoencoder((16, 16, 3), channels=8, multipliers=(1, 2), rngs=rngs)
        >>> init, encode, decode = encoder_decoder(make)
        >>> mean, log_std = encode(params := init(jax.random.key(0)), jnp.zeros((5, 16, 16, 3)))
        >>> mean.shape, decode(params, mean).shape
        ((5, 8, 8, 4), (5, 16, 16, 3))
    """
    (init, _), merge = functional(make), structure(make)

    def encode(params: Params, x: Float[Array, "B ..."]) -> tuple[Float[Array, "B ..."], Float[Array, "B ..."]]:
        return merge(params).encode(x)

    def decode(params: Params, z: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
        return merge(params).decode(z)

    return init, encode, decode


def _factor(shape: tuple[int, ...], multipliers: tuple[int, ...], patch: int) -> int:
    if not multipliers or patch < 1:
        raise ValueError(
            f"an autoencoder needs a multiplier and a patch of at least 1, got {multipliers} and {patch}; "
            "give one multiplier for each level"
        )
    factor = patch * 2 ** (len(multipliers) - 1)
    if shape[0] % factor or shape[1] % factor:
        height, width = (-(-side // factor) * factor for side in shape[:2])
        raise ValueError(
            f"{len(multipliers)} multipliers and patch {patch} make pictures smaller by {factor}, which must divide "
            f"their size, got {shape[0]} x {shape[1]}; resize them to {height} x {width}, or use fewer multipliers"
        )
    return factor
