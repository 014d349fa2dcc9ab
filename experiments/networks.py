"""Networks as a recipe names them: hyper-parameters now, shape and classes once the data are known."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeAlias

import jax.numpy as jnp
from flax import nnx

from jaxdiff import networks

Make: TypeAlias = Callable[[nnx.Rngs], nnx.Module]
Dtype: TypeAlias = Literal["float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class About:
    """What a network needs to know of its data beside their shape and classes.

    Attributes:
        tokens: values that a token of the data can have; 0 for real numbers.
        states: values that a noisy token can have.
        features: numbers that are known of each token.
        told: arguments of a network of pictures for what it is told beside labels, see `experiments.conditions`.
    """

    tokens: int = 0
    states: int = 0
    features: int = 0
    told: Mapping[str, Any] = field(default_factory=dict)


REALS = About()


@dataclass(frozen=True, kw_only=True)
class MLP:
    """A residual MLP over all pixels at once."""

    width: int = 512
    depth: int = 4
    dropout: float = 0.0
    dtype: Dtype = "float32"
    """Precision of the computation; parameters stay float32."""

    def make(self, shape: tuple[int, ...], num_classes: int, about: About = REALS) -> Make:
        _labels_alone(about)
        return _make(networks.MLP, self, _reals(shape, about.tokens), num_classes=num_classes)


@dataclass(frozen=True, kw_only=True)
class UNet:
    """A convolutional U-Net with adaptive group norm (DDPM++ / ADM)."""

    channels: int = 64
    """Feature channels at full resolution."""
    multipliers: tuple[int, ...] = (1, 2, 2)
    """Channels of each resolution as a multiple of `channels`; each but the last halves the picture."""
    patch: int = 1
    """Side of the squares of pixels that become channels before the first level: 2 quarters the cost."""
    blocks: int = 2
    """Residual blocks at each resolution."""
    attention: tuple[int, ...] = (8,)
    """Resolutions, in pixels of height, at which to attend."""
    head_dim: int = 64
    dropout: float = 0.0
    dtype: Dtype = "float32"
    """Precision of the computation; parameters stay float32."""
    flash: bool = False
    """Attend by cuDNN's fused kernel on GPUs; with --network.dtype bfloat16."""
    remat: bool = False
    """Recompute activations in the backward pass: less memory, a third more time."""

    def make(self, shape: tuple[int, ...], num_classes: int, about: About = REALS) -> Make:
        return _pictures(networks.UNet, self, shape, about, num_classes=num_classes)


@dataclass(frozen=True, kw_only=True)
class DiT:
    """A diffusion transformer over patches."""

    patch: int = 2
    """Side of a patch in pixels."""
    width: int = 384
    depth: int = 12
    heads: int = 6
    dropout: float = 0.0
    rotary: bool = False
    """Rotary instead of sin-cos positions."""
    dtype: Dtype = "float32"
    """Precision of the computation; parameters stay float32."""
    flash: bool = False
    """Attend by cuDNN's fused kernel on GPUs; with --network.dtype bfloat16."""
    remat: bool = False
    """Recompute activations in the backward pass: less memory, a third more time."""

    def make(self, shape: tuple[int, ...], num_classes: int, about: About = REALS) -> Make:
        return _pictures(networks.DiT, self, shape, about, num_classes=num_classes)


@dataclass(frozen=True, kw_only=True)
class Transformer:
    """A transformer over a sequence, of tokens or of vectors."""

    width: int = 256
    depth: int = 6
    heads: int = 4
    dropout: float = 0.0
    time: bool = True
    """Tell the network the time; masked diffusion can do without."""
    block: int | None = None
    """Tokens of a block that sees itself and the blocks before it (block diffusion; 1 is autoregressive); None: all."""
    dtype: Dtype = "float32"
    """Precision of the computation; parameters stay float32."""
    remat: bool = False
    """Recompute activations in the backward pass: less memory, a third more time."""

    def make(self, shape: tuple[int, ...], num_classes: int, about: About = REALS) -> Make:
        _labels_alone(about)
        if len(shape) > 2 or (len(shape) == 2 and about.tokens):
            raise ValueError(
                f"it takes sequences, (L,) tokens or (L, C) numbers, got {shape}; use --network unet or dit"
            )
        alphabet = {"tokens": about.tokens, "states": about.states} if about.tokens else {}
        return _make(networks.Transformer, self, shape, num_classes=num_classes, features=about.features, **alphabet)


@dataclass(frozen=True, kw_only=True)
class Autoencoder:
    """A convolutional autoencoder of pictures, in whose latents other runs diffuse (`--latents RUN`)."""

    channels: int = 32
    """Feature channels of the first level."""
    multipliers: tuple[int, ...] = (1, 2)
    """Channels of each level as a multiple of `channels`; each but the last halves the picture."""
    patch: int = 2
    """Side of the squares of pixels that become channels before the first level: makes the picture smaller, too."""
    blocks: int = 1
    """Residual blocks at each level."""
    latent: int = 4
    """Channels of the latents."""
    kl_weight: float = 1e-4
    """Weight of the latents' divergence from N(0, 1), beside the error of the picture."""
    error: Literal["absolute", "square"] = "absolute"
    """Of a number of the picture."""
    dtype: Dtype = "float32"
    """Precision of the computation; parameters stay float32."""
    remat: bool = False
    """Recompute activations in the backward pass: less memory, a third more time."""

    def make(self, shape: tuple[int, ...], num_classes: int, about: About = REALS) -> Make:
        _labels_alone(about)
        if len(shape) != 3 or about.tokens:
            raise ValueError(
                f"it takes pictures (H, W, C) of real numbers, got {shape}{' of tokens' * bool(about.tokens)}"
            )
        options = {field.name: getattr(self, field.name) for field in fields(self)}
        options = {k: v for k, v in options.items() if k not in ("kl_weight", "error", "dtype")}
        return lambda rngs: networks.Autoencoder(shape, rngs=rngs, dtype=jnp.dtype(self.dtype), **options)


Network: TypeAlias = MLP | UNet | DiT | Transformer | Autoencoder


def _make(module: Callable[..., nnx.Module], spec: Any, shape: tuple[int, ...], **data: Any) -> Make:
    options = {field.name: getattr(spec, field.name) for field in fields(spec)} | data
    options["dtype"] = jnp.dtype(options["dtype"])
    return lambda rngs: module(shape, rngs=rngs, **options)


def _pictures(
    module: Callable[..., nnx.Module], spec: Any, shape: tuple[int, ...], about: About, **options: Any
) -> Make:
    """Of real channels, or of tokens one-hot."""
    options |= about.told
    if not about.tokens:
        return _make(module, spec, shape, **options)
    if len(shape) != 3:
        raise ValueError(f"it takes pictures, not sequences {shape} of tokens; use --network transformer")

    def inner(shape: tuple[int, ...], *, rngs: nnx.Rngs, **more: Any) -> nnx.Module:
        return _make(module, spec, shape, **options, **more)(rngs)

    return lambda rngs: networks.OneHot(inner, shape, tokens=about.tokens, states=about.states, rngs=rngs)


def _reals(shape: tuple[int, ...], tokens: int) -> tuple[int, ...]:
    if tokens:
        raise ValueError(f"it takes real numbers, not {tokens} kinds of tokens; use --network transformer")
    return shape


def _labels_alone(about: About) -> None:
    if about.told:
        raise ValueError("it is told labels alone; for small pictures, holes and embeddings use --network unet or dit")
