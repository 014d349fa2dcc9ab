"""One PIL picture to uint8 arrays of a fixed shape: its middle, or tiles cut out of it."""

import hashlib
from typing import Any

import numpy as np

from experiments.errors import UserError

_EIGHT_BIT = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "La", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"}


def to_array(picture: Any, *, channels: int, size: int | None = None, short: int | None = None) -> np.ndarray:
    """uint8 (H, W, channels) of an 8-bit picture; with `size`, its central square scaled to (size, size, channels).

    Scaling is bicubic with a support that grows with the reduction, so it is antialiased. Transparency is laid on
    white. Colour becomes gray by ITU-R 601 luma (0.299 R + 0.587 G + 0.114 B).

    Args:
        picture: a `PIL.Image.Image`.
        channels: 1 for gray, 3 for RGB.
        size: pixels a side, or None to keep the picture's own size.
        short: pixels of the shorter side that the whole picture is scaled to; instead of `size`.

    Raises:
        UserError: for 16-bit or floating-point pictures, whose range is not known here.
    """
    from PIL import Image

    if picture.mode not in _EIGHT_BIT:
        raise UserError(
            f"A picture must have 8 bits a channel; this one has PIL mode {picture.mode!r}. Save it as an 8-bit PNG."
        )
    mode = "L" if channels == 1 else "RGB"
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    if picture.mode != mode:
        picture = picture.convert(mode)
    if size is not None and picture.size != (size, size):
        width, height = picture.size
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
        picture = picture.resize((size, size), Image.Resampling.BICUBIC, box=box)
    if short is not None and min(picture.size) != short:
        scale = short / min(picture.size)
        sides = [max(short, round(side * scale)) for side in picture.size]
        picture = picture.resize((sides[0], sides[1]), Image.Resampling.BICUBIC)
    return np.asarray(picture).reshape(picture.height, picture.width, channels)


def cut_tiles(array: np.ndarray, side: int, count: int, *, name: str) -> list[np.ndarray]:
    """`count` squares (side, side, C) of an array (H, W, C), at uniformly random places that the name decides."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    # Raw numbers: their stream never changes between versions of NumPy, see `experiments.data.order`.
    raw = np.random.Philox(np.random.SeedSequence(seed)).random_raw((count, 2))
    rooms = np.array([array.shape[0] - side + 1, array.shape[1] - side + 1], np.uint64)
    return [array[y : y + side, x : x + side] for y, x in (raw % rooms).astype(int)]
