"""Pretrained weights of diffusers in the library's own networks: `load(folder) -> (make, params)`.

    make, params = load("ddpm-cifar10-32")
    _, apply = networks.functional(make)
    apply(params, x_t, t, cond)

A folder is what diffusers' `save_pretrained` writes: `config.json` beside `diffusion_pytorch_model.safetensors`, or a
pipeline with such a folder in it. `UNet2DModel` (arXiv 2006.11239, 2105.05233) becomes `networks.UNet` and
`DiTTransformer2DModel` (arXiv 2212.09748) `networks.DiT`; in float32 their outputs are those of diffusers. No pickle is
read, and every option and every tensor is used or refused: nothing is skipped.

Time: diffusers counts steps k = 0 ... 999 and takes sinusoids of k; t = (k + 1) / 1000 is the time of entry k in
`schedules.FromBetas`, so that t = 0 is data. The converted network takes t in [0, 1], and gives for it what the other
gives for k = 1000 t - 1 (which may be fractional). The step between 1000 t and k is a rotation of each pair of sine and
cosine, and lies in the parameters: see `layouts.time_kernel`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx

from experiments.errors import UserError
from experiments.pretrained import dit, unet
from experiments.pretrained.folder import read
from experiments.pretrained.options import Options
from experiments.pretrained.tensors import Tensors
from jaxdiff import networks
from jaxdiff.types import Params

_ARCHITECTURE = {
    "UNet2DModel": unet.architecture,
    "DiTTransformer2DModel": dit.architecture,
    "Transformer2DModel": dit.architecture,
}
_CONVERT = {"UNet2DModel": unet.convert, "DiTTransformer2DModel": dit.convert, "Transformer2DModel": dit.convert}
"""By the class in `config.json`; the last is what DiT was called before."""


def architecture(config: Mapping[str, Any], **changes: Any) -> Callable[[nnx.Rngs], nnx.Module]:
    """The network of a `config.json` alone, with parameters of its own.

    Args:
        config: its entries.
        changes: keywords of the network that are to be others, such as `dtype`.

    Raises:
        UserError: another architecture, or an option that the networks lack.
    """
    network, shape, keywords = _of(_ARCHITECTURE, config)(Options(config))
    return lambda rngs: network(shape, **{**keywords, **changes}, rngs=rngs)


def load(folder: epath.PathLike) -> tuple[Callable[[nnx.Rngs], nnx.Module], Params]:
    """A pretrained model of diffusers as one of the library's networks and its parameters.

    Args:
        folder: of a model, or of a pipeline that holds one as `unet` or `transformer`.

    Returns:
        make: builds the module from its `nnx.Rngs`, as `networks.functional` takes it.
        params: float32 arrays, as that network's `init` would give them.

    Raises:
        UserError: no such files, or pickles alone; another architecture, or an option that the networks lack; tensors
            that are missing, left over or of another shape.
    """
    return convert(*read(epath.Path(folder)))


def convert(
    config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> tuple[Callable[[nnx.Rngs], nnx.Module], Params]:
    """`load` of what the two files hold: the entries of `config.json`, and float32 arrays by name.

    Raises:
        UserError: as `load` does.
    """
    make, params = _of(_CONVERT, config)(Options(config), Tensors(arrays))
    _check(make, params)
    return make, jax.tree.map(jnp.asarray, params)


def _of(table: Mapping[str, Any], config: Mapping[str, Any]) -> Any:
    """The entry of the config's class."""
    kind = str(config.get("_class_name"))
    if kind not in table:
        raise UserError(
            f"needed a model of class {' or '.join(table)}, got {kind}; text-to-image models and autoencoders do "
            "not load"
        )
    return table[kind]


def _check(make: Callable[[nnx.Rngs], nnx.Module], params: Any) -> None:
    """Raises UserError unless `params` has the shapes of the parameters that `make` starts with."""
    init, _ = networks.functional(make)
    shapes = lambda tree: {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(tree)}
    needed, came = shapes(jax.eval_shape(init, jax.random.key(0))), shapes(params)
    wrong = [name for name in needed | came if needed.get(name) != came.get(name)]
    if wrong:
        first = wrong[0]
        raise UserError(
            f"config.json needs parameter {first} of shape {needed.get(first)}, got {came.get(first)} from the "
            f"weights, and {len(wrong) - 1} more do not fit; config and weights are of different models"
        )
