"""What programs on single pictures share: reading them, the run's own test pictures, and writing results."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from experiments import pictures
from experiments.data import from_pixels, to_pixels
from experiments.errors import UserError
from experiments.model import Model
from jaxdiff import Gaussian


def check(model: Model, doing: str) -> None:
    """Raises UserError unless the run is on pictures as real numbers, which `doing` needs."""
    if not isinstance(model.process, Gaussian) or model.info.tokenizer is not None or len(model.info.shape) != 3:
        what = "text" if model.info.tokenizer is not None else "tokens"
        raise UserError(
            f"{doing} needs a run on pictures as real numbers, this one was trained on {what}; train one: "
            "python -m experiments.train mnist"
        )
    if model.codec is not None:
        raise UserError(f"{doing} needs a run on pixels, this one diffuses in latents; train one without --latents")


def read(path: str, channels: int, *, opacity: bool = False) -> np.ndarray:
    """uint8 (H, W, channels) of a picture file, with its opacity as one channel more where asked for.

    Raises:
        UserError: no such file, or none that holds a picture.
    """
    from PIL import Image, UnidentifiedImageError

    if not Path(path).is_file():
        raise UserError(f"no such picture: {path}")
    mode = ("LA" if channels == 1 else "RGBA") if opacity else ("L" if channels == 1 else "RGB")
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert(mode))
    except UnidentifiedImageError as error:
        raise UserError(f"{path} is no picture that can be read; give a PNG or JPEG") from error
    return pixels.reshape(*pixels.shape[:2], -1)


def of_file(path: str, shape: tuple[int, ...], what: str = "the pictures of this run") -> np.ndarray:
    """A picture file as float32 (1, H, W, C) in [-1, 1].

    Args:
        shape: (H, W, C) that it must have.
        what: has this shape, for the message.

    Raises:
        UserError: no such picture, or one of another size.
    """
    picture = from_pixels(read(path, shape[-1]))[None]
    if picture.shape[1:] != shape:
        raise UserError(
            f"--image must have the {shape[0]} x {shape[1]} pixels of {what}, got {picture.shape[1]} x "
            f"{picture.shape[2]}; resize it"
        )
    return picture


def check_given(image: str | None, test: int | None) -> None:
    """Raises UserError unless one of `--image` and `--test` was given."""
    if (image is None) == (test is None):
        raise UserError("give a picture: --image FILE, or --test NUMBER of the run's test split")


def of_test(model: Model, number: int) -> tuple[np.ndarray, int | None]:
    """A picture of the run's test split, float32 (1, H, W, C) in [-1, 1], and its label where there is one.

    Raises:
        UserError: a number that the split does not have.
    """
    data: Any = model.recipe.data
    test = data.load().test
    if not 0 <= number < len(test):
        raise UserError(f"--test must lie in 0..{len(test) - 1}, got {number}")
    pixels, label = test[number]
    return from_pixels(np.asarray(pixels))[None], None if label is None else int(label)


def write(
    out: epath.Path, sheet: bytes, path: np.ndarray, arrays: dict[str, np.ndarray], figures: dict[str, Any]
) -> None:
    """The sheet at `out` (a PNG), steps as a strip, arrays and figures beside it, and a line to stderr.

    Args:
        path: float32 (steps + 1, H, W, C) in [-1, 1], one sample at each time.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(sheet)
    out.with_name(f"{out.stem}-steps.png").write_bytes(pictures.strip(to_pixels(path)[:, None]))
    with out.with_suffix(".npz").open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    out.with_suffix(".json").write_text(json.dumps(figures, indent=1) + "\n")
    told = ", ".join(
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in figures.items()
    )
    print(f"{told}: {out}", file=sys.stderr)
