"""The files of a pretrained model: `config.json` and its tensors, from safetensors alone.

A pickle (`.bin`, `.pt`, `.ckpt`) can run any code when it is read, so none is.
"""

import json
from typing import Any

import numpy as np
from etils import epath
from safetensors import safe_open

from experiments.errors import UserError

WEIGHTS = "diffusion_pytorch_model.safetensors"
_PARTS = ("unet", "transformer")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def read(folder: epath.Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What `config.json` says, and the tensors in float32 by name.

    Args:
        folder: of a model, or of a pipeline with a model in `unet` or `transformer`.

    Raises:
        UserError: a file is not there, or cannot be read; or the weights are a pickle.
    """
    folder = next((place for place in (folder, *(folder / part for part in _PARTS)) if _has(place)), folder)
    config = read_json(folder / "config.json")
    file = folder / WEIGHTS
    if not file.exists():
        there = sorted(path.name for path in folder.iterdir())
        pickles = [name for name in there if name.endswith(_PICKLES)]
        if pickles:
            raise UserError(
                f"needed {WEIGHTS} in {folder}, got {', '.join(pickles)}: pickles can run code when they are read, and "
                "are not; load it where you trust it and save_pretrained(..., safe_serialization=True)"
            )
        raise UserError(
            f"needed {WEIGHTS} in {folder}, got {', '.join(there)}; save the model in one file, without a variant"
        )
    try:
        # The framework of JAX knows bfloat16, that of NumPy does not.
        with safe_open(file, framework="flax") as opened:
            return config, {name: np.asarray(opened.get_tensor(name), np.float32) for name in opened.keys()}  # noqa: SIM118
    except Exception as error:  # its errors have no type of their own
        raise UserError(f"{file} is no whole safetensors file ({error}); fetch it again") from error


def read_json(file: epath.Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UserError: there is none.
    """
    if not file.exists():
        raise UserError(f"needed {file}, which is not there; give the folder that save_pretrained wrote")
    try:
        found = json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"{file} is not JSON: {error}; fetch it again") from error
    if not isinstance(found, dict):
        raise UserError(f"{file} must hold an object, got {type(found).__name__}; fetch it again")
    return found


def _has(folder: epath.Path) -> bool:
    return (folder / "config.json").exists()
