"""The networks that are raced: by the options of diffusers' classes, so that both sides can hold the same weights."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from experiments import pretrained
from jaxdiff import Gaussian, networks, predictions, schedules
from jaxdiff.types import Params


def _dit(width: int, depth: int, heads: int, *, size: int = 32, patch: int = 2) -> dict[str, Any]:
    return {
        "_class_name": "DiTTransformer2DModel",
        "sample_size": size,
        "patch_size": patch,
        "in_channels": 4,
        "num_layers": depth,
        "num_attention_heads": heads,
        "attention_head_dim": width // heads,
        "num_embeds_ada_norm": 1000,
    }


def _unet(channels: Sequence[int], attending: int, *, blocks: int) -> dict[str, Any]:
    """Attention at one level."""
    types = ["AttnDownBlock2D" if level == attending else "DownBlock2D" for level in range(len(channels))]
    return {
        "_class_name": "UNet2DModel",
        "sample_size": 32,
        "block_out_channels": tuple(channels),
        "layers_per_block": blocks,
        "down_block_types": tuple(types),
        "up_block_types": tuple(name.replace("Down", "Up") for name in reversed(types)),
        "attention_head_dim": None,
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "norm_eps": 1e-6,
    }


CONFIGS = {
    "dit-mini": _dit(256, 6, 4, size=16),
    "dit-s": _dit(384, 12, 6),
    "dit-b": _dit(768, 12, 12),
    "dit-xl": _dit(1152, 28, 16),
    "unet-small": _unet((64, 128, 128), 1, blocks=1),
    "unet-ddpm": _unet((128, 256, 256, 256), 1, blocks=2),
}
"""DiT-S/2, -B/2 and -XL/2 (arXiv 2212.09748) on latents of 256 x 256 pixels; DDPM's U-Net (2006.11239) on 32 x 32."""


class Subject(NamedTuple):
    """A network with its parameters, ready to be sampled.

    Attributes:
        apply: `(params, x, t, cond) -> output`.
        classes: of its labels; 0 without.
    """

    process: Gaussian
    apply: Callable[..., Any]
    params: Params
    shape: tuple[int, ...]
    classes: int


def process() -> Gaussian:
    """DDPM's table, with its epsilon."""
    return Gaussian(schedule=schedules.FromBetas.linear(), prediction=predictions.eps())


def subject(
    name: str,
    precision: str,
    arrays: dict[str, Any] | None = None,
    *,
    flash: bool = False,
    sampled: bool = False,
) -> Subject:
    """One of `CONFIGS` with parameters of its own, or those in `arrays`, named as diffusers names them.

    Args:
        precision: dtype of the computation.
        flash: attend by cuDNN's kernel on a GPU.
        sampled: parameters in the dtype that they are computed in, which training cannot use; else in float32.
    """
    config = CONFIGS[name]
    make = pretrained.architecture(config, dtype=jnp.dtype(precision), flash=flash)
    init, apply = networks.functional(make)
    module: Any = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
    params = jax.jit(init)(jax.random.key(0)) if arrays is None else pretrained.convert(config, arrays)[1]
    params = networks.in_compute_dtype(make)(params) if sampled else params
    return Subject(process(), apply, params, module.shape, module.num_classes)
