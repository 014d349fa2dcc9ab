"""One PIL picture to one uint8 array of a fixed shape."""

from typing import Any

import numpy as np

from experiments.errors import UserError

_EIGHT_BIT = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "La", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"}


def to_array(picture: Any, *, channels: int, size: int | None = None) -> np.ndarray:
    """uint8 (H, W, channels) of an 8-bit picture; with `size`, its central square scaled to (size, size, channels).

    Scaling is bicubic with a support that grows with the reduction, so it is antialiased. Transparency is laid on
    white. Colour becomes gray by ITU-R 601 luma (0.299 R + 0.587 G + 0.114 B).

    Args:
        picture: a `PIL.Image.Image`.
        channels: 1 for gray, 3 for RGB.
        size: pixels a side, or None to keep the picture's own size.

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
    return np.asarray(picture).reshape(picture.height, picture.width, channels)
