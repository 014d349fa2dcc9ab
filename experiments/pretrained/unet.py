"""diffusers' `UNet2DModel` as `networks.UNet`: DDPM (arXiv 2006.11239), ADM (2105.05233) and what is between them."""

from collections.abc import Callable
from typing import Any

import numpy as np
from flax import nnx

from experiments.errors import UserError
from experiments.pretrained import layouts
from experiments.pretrained.options import Options
from experiments.pretrained.tensors import Tensors
from jaxdiff import networks

_OLD_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
"""Of the layers of attention, in the first weights that were published."""


def convert(options: Options, tensors: Tensors) -> tuple[Callable[[nnx.Rngs], nnx.Module], dict[str, Any]]:
    """The network and its parameters.

    A model with classes has no null label, so its row in the network is NaN, and so is the output without a condition,
    which diffusers refuses. A model that was trained with a null label has it among its classes.

    Raises:
        UserError: an option that the network lacks; a tensor is missing or left over.
    """
    shape, kind, attending, cosine_first = _network(options)
    tensors = tensors.renamed(".attentions.", _OLD_NAMES)
    levels, blocks = len(kind["multipliers"]), kind["blocks"]
    heads = [max(1, kind["channels"] * m // kind["head_dim"]) for m in kind["multipliers"]]

    def level_of(place: str, level: int, blocks: int, resampler: str | None) -> list[dict[str, Any]]:
        count = heads[level] if attending[level] else 0
        made = [_residual(tensors, f"{place}.resnets.{i}", f"{place}.attentions.{i}", count) for i in range(blocks)]
        if resampler is None:
            return made
        if kind["resample_with_blocks"]:
            return [*made, _residual(tensors, f"{place}.{resampler}.0")]
        return [*made, {"conv": layouts.conv(tensors, f"{place}.{resampler}.0.conv")}]

    down, up = [], []
    for level in range(levels):
        down += level_of(f"down_blocks.{level}", level, blocks, "downsamplers" if level + 1 < levels else None)
        mirror = levels - 1 - level
        up += level_of(f"up_blocks.{level}", mirror, blocks + 1, "upsamplers" if mirror else None)
    middle = [
        _residual(tensors, "mid_block.resnets.0", "mid_block.attentions.0", heads[-1]),
        _residual(tensors, "mid_block.resnets.1"),
    ]
    time = layouts.time_embedding(tensors, "time_embedding", kind["max_period"], cosine_first=cosine_first)
    embedding: dict[str, Any] = {"time": time}
    if kind["num_classes"]:
        rows = tensors.take("class_embedding.weight", 2)
        embedding["classes"] = np.concatenate([rows, np.full_like(rows[:1], np.nan)])
    params = {
        "embedding": embedding,
        "stem": layouts.conv(tensors, "conv_in"),
        "down": _numbered(down),
        "middle": _numbered(middle),
        "up": _numbered(up),
        "norm": layouts.norm(tensors, "conv_norm_out"),
        "out": layouts.conv(tensors, "conv_out"),
    }
    tensors.done()
    return lambda rngs: networks.UNet(shape, **kind, rngs=rngs), params


def architecture(options: Options) -> tuple[type[nnx.Module], tuple[int, int, int], dict[str, Any]]:
    """The network's class, its shape and its other keywords."""
    shape, keywords, _, _ = _network(options)
    return networks.UNet, shape, keywords


def _residual(tensors: Tensors, name: str, attention: str = "", heads: int = 0) -> dict[str, Any]:
    """A residual block, with the attention that follows it where there are heads."""
    block: dict[str, Any] = {
        "first_norm": layouts.norm(tensors, f"{name}.norm1"),
        "first": layouts.conv(tensors, f"{name}.conv1"),
        "modulation": layouts.linear(tensors, f"{name}.time_emb_proj"),
        "last_norm": layouts.norm(tensors, f"{name}.norm2"),
        "last": layouts.conv(tensors, f"{name}.conv2"),
    }
    if f"{name}.conv_shortcut.weight" in tensors:
        block["skip"] = layouts.pointwise(tensors, f"{name}.conv_shortcut")
    if heads:
        block["attention_norm"] = layouts.norm(tensors, f"{attention}.group_norm")
        block["attention"] = layouts.attention(tensors, attention, heads)
    return block


def _numbered(children: list[dict[str, Any]]) -> dict[str, Any]:
    return {str(i): child for i, child in enumerate(children)}


def _network(options: Options) -> tuple[tuple[int, int, int], dict[str, Any], list[bool], bool]:
    """The shape, the keywords of `networks.UNet`, which levels attend, and the order of the sinusoids."""
    for name, allowed in {
        "center_input_sample": (False,),
        "time_embedding_type": ("positional",),
        "mid_block_type": ("UNetMidBlock2D",),
        "mid_block_scale_factor": (1,),
        "act_fn": ("silu", "swish"),
        "add_attention": (True,),
        "class_embed_type": (None,),
    }.items():
        options.only(name, *allowed)
    options.take("num_train_timesteps", None)  # of learned time embeddings alone
    size = options.take("sample_size")
    if size is None:
        raise UserError("sample_size must be the height and width of the pictures, got null; set it in config.json")
    height, width = (size, size) if isinstance(size, int) else size
    wide = options.take("block_out_channels")
    channels, blocks = wide[0], options.take("layers_per_block", 2)
    attending, with_blocks = _levels(options, len(wide))
    scaling = options.only("resnet_time_scale_shift", "default", "scale_shift") == "scale_shift"
    groups = options.take("norm_num_groups", 32)
    head_dim = options.take("attention_head_dim", 8) or max(wide)
    if channels % 2 or any(c % channels for c in wide):
        raise UserError(f"block_out_channels must be even and multiples of the first, got {wide}; it does not load")
    options.only("time_embedding_dim", None, 4 * channels)
    middle = options.take("attn_norm_num_groups", None) or (None if scaling else groups)
    if middle != groups:
        raise UserError(
            f"attn_norm_num_groups must be norm_num_groups = {groups}, got {middle} (null with scale_shift is no norm "
            "before the attention in the middle); such a model does not load"
        )
    crowded = [c for c, attends in zip(wide, [*attending[:-1], True], strict=True) if attends and c % min(head_dim, c)]
    if crowded:
        raise UserError(f"attention_head_dim must divide the channels that attend, got {head_dim} for {crowded}")
    kind = {
        "channels": channels,
        "multipliers": tuple(c // channels for c in wide),
        "blocks": blocks,
        # The middle attends where this is not empty, and no level has the height 0.
        "attention": (0, *(height >> level for level, attends in enumerate(attending) if attends)),
        "head_dim": head_dim,
        "groups": groups,
        "group_channels": 1,
        "epsilon": options.take("norm_eps", 1e-5),
        "dropout": options.take("dropout", 0.0),
        "num_classes": options.take("num_class_embeds", None) or 0,
        "resample_with_blocks": with_blocks,
        "centred": options.only("downsample_padding", 1, 0) == 1,
        "additive": not scaling,
        "residual_scale": 1,
        "max_period": layouts.max_period(channels, options.take("freq_shift", 0)),
        "out_channels": options.take("out_channels", 3),
    }
    shape = (height, width, options.take("in_channels", 3))
    cosine_first = options.take("flip_sin_to_cos", True)
    options.done()
    return shape, kind, attending, cosine_first


def _levels(options: Options, count: int) -> tuple[list[bool], bool]:
    """Which levels attend, and whether sizes change in residual blocks.

    Raises:
        UserError: other blocks than these, or a way up that is not the mirror image of the way down.
    """
    kinds = {"down": options.take("down_block_types"), "up": options.take("up_block_types")[::-1]}
    with_blocks, attending = set(), {}
    for road, types in kinds.items():
        sample, title = f"{road}sample", road.capitalize()
        attention = options.only(f"{sample}_type", "conv", "resnet") == "resnet"
        known = {
            f"{title}Block2D": (False, False),
            f"Attn{title}Block2D": (True, attention),
            f"Resnet{title}sampleBlock2D": (False, True),
        }
        unknown = [name for name in types if name not in known]
        if unknown or len(types) != count:
            raise UserError(
                f"{road}_block_types must be {count} of {', '.join(known)}, got {unknown or types}; a model with "
                "others does not load"
            )
        attending[road] = [known[name][0] for name in types]
        # On the way down the last level changes no size, and on the way up the one that mirrors the first.
        with_blocks |= {known[name][1] for name in (types[:-1] if road == "down" else types[1:])}
    if attending["down"] != attending["up"] or len(with_blocks) > 1:
        raise UserError(
            "up_block_types must mirror down_block_types, and all change the size in one way, got "
            f"{kinds['down']} and, from the last, {kinds['up']}; such a model does not load"
        )
    return attending["down"], bool(with_blocks and with_blocks.pop())
