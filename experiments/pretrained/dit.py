"""diffusers' `DiTTransformer2DModel`, once `Transformer2DModel`, as `networks.DiT` (arXiv 2212.09748).

Two things are another basis, not another network. The positions of diffusers have the column in the first half of a
token's channels and the row in the second, the library's the other way round: both halves change places wherever
tokens go in or come out. Shift, scale, gate are here scale, shift, gate.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from flax import nnx

from experiments.errors import UserError
from experiments.pretrained import layouts
from experiments.pretrained.options import Options
from experiments.pretrained.tensors import Tensors
from jaxdiff import networks

_FEATURES = 256  # of the time, in both


def convert(options: Options, tensors: Tensors) -> tuple[Callable[[nnx.Rngs], nnx.Module], dict[str, Any]]:
    """The network and its parameters; label `num_classes` is the null label, as in diffusers.

    diffusers keeps one embedding of time and class in each block, published models the same in all of them.

    Raises:
        UserError: an option that the network lacks; a tensor is missing or left over; embeddings that differ.
    """
    shape, kind = _network(options)
    params = {
        "embedding": _embedding(tensors, kind["depth"], kind["max_period"]),
        "stem": _out(layouts.patches(tensors, "pos_embed.proj")),
        "blocks": {str(i): _block(tensors, f"transformer_blocks.{i}", kind["heads"]) for i in range(kind["depth"])},
        "modulation": _out(layouts.linear(tensors, "proj_out_1"), (1, 0)),
        "out": _in(layouts.linear(tensors, "proj_out_2")),
    }
    tensors.done()
    return lambda rngs: networks.DiT(shape, **kind, rngs=rngs), params


def architecture(options: Options) -> tuple[type[nnx.Module], tuple[int, int, int], dict[str, Any]]:
    """The network's class, its shape and its other keywords."""
    return networks.DiT, *_network(options)


def _embedding(tensors: Tensors, depth: int, period: float) -> dict[str, Any]:
    made = []
    for i in range(depth):
        name = f"transformer_blocks.{i}.norm1.emb"
        time = layouts.time_embedding(tensors, f"{name}.timestep_embedder", period, cosine_first=True)
        made.append({"time": time, "classes": tensors.take(f"{name}.class_embedder.embedding_table.weight", 2)})
        leaves = lambda tree: [*tree["time"]["first"].values(), *tree["time"]["last"].values(), tree["classes"]]
        if not all(map(np.array_equal, leaves(made[0]), leaves(made[-1]))):
            raise UserError(
                f"the embedding of time and class must be the same in every block, but those of blocks 0 and {i} "
                "differ; such a model does not load"
            )
        made = made[:1]
    return made[0]


def _block(tensors: Tensors, name: str, heads: int) -> dict[str, Any]:
    attention = layouts.attention(tensors, f"{name}.attn1", heads)
    return {
        "modulation": _out(layouts.linear(tensors, f"{name}.norm1.linear"), (1, 0, 2, 4, 3, 5)),
        "attention": {"qkv": _in(attention["qkv"]), "out": _out(attention["out"])},
        "first": _in(layouts.linear(tensors, f"{name}.ff.net.0.proj")),
        "last": _out(layouts.linear(tensors, f"{name}.ff.net.2")),
    }


def _in(layer: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A layer that reads tokens, whose halves have changed places."""
    return layer | {"kernel": np.roll(layer["kernel"], len(layer["kernel"]) // 2, 0)}


def _out(layer: dict[str, np.ndarray], order: tuple[int, ...] = (0,)) -> dict[str, np.ndarray]:
    """A layer that gives `len(order)` tokens: they are put into this order, and the halves of each change places."""

    def moved(array: np.ndarray) -> np.ndarray:
        parts = array.reshape(*array.shape[:-1], len(order), -1)[..., order, :]
        return np.roll(parts, parts.shape[-1] // 2, -1).reshape(array.shape)

    return {name: moved(array) for name, array in layer.items()}


def _network(options: Options) -> tuple[tuple[int, int, int], dict[str, Any]]:
    """The shape and the keywords of `networks.DiT`."""
    for name, allowed in {
        "norm_type": ("ada_norm_zero",),
        "activation_fn": ("gelu-approximate",),
        "norm_elementwise_affine": (False,),
        "attention_bias": (True,),
        "attention_type": ("default",),
        "dropout": (0,),
    }.items():
        options.only(name, *allowed)
    for name in ("norm_num_groups", "upcast_attention"):  # not used by DiT; softmax is in float32 here
        options.take(name, None)
    size, channels, heads = (options.take(name) for name in ("sample_size", "in_channels", "num_attention_heads"))
    kind = {
        "patch": options.take("patch_size"),
        "width": heads * options.take("attention_head_dim"),
        "depth": options.take("num_layers"),
        "heads": heads,
        "num_classes": options.take("num_embeds_ada_norm"),
        "qk_norm": False,
        "mlp_epsilon": options.take("norm_eps", 1e-5),
        "max_period": layouts.max_period(_FEATURES, 1),
        "out_channels": options.take("out_channels", None) or channels,
    }
    options.done()
    return (size, size, channels), kind
