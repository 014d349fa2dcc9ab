"""Pictures of a run: grids of images, strips over time, the loss curve. Each function returns PNG bytes."""

import io

import numpy as np
from PIL import Image

_GAP, _BACKGROUND = 2, 40


def tile(images: np.ndarray, columns: int, *, zoom: int | None = None) -> np.ndarray:
    """Images (N, H, W, C) uint8 row by row in one (height, width, 3) picture; small ones enlarged without smoothing."""
    n, h, w, _ = images.shape
    rows, zoom = -(-n // columns), zoom or max(1, 40 // max(h, w))
    images = np.repeat(images, 3, -1) if images.shape[-1] == 1 else images[..., :3]
    images = images.repeat(zoom, 1).repeat(zoom, 2)
    h, w = h * zoom, w * zoom
    sheet = np.full((rows * (h + _GAP) + _GAP, columns * (w + _GAP) + _GAP, 3), _BACKGROUND, np.uint8)
    for i, image in enumerate(images):
        y, x = (i // columns) * (h + _GAP) + _GAP, (i % columns) * (w + _GAP) + _GAP
        sheet[y : y + h, x : x + w] = image
    return sheet


def png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def grid(images: np.ndarray, columns: int) -> bytes:
    """Images (N, H, W, C), `columns` a row."""
    return png(tile(images, columns))


def side_by_side(left: np.ndarray, right: np.ndarray, columns: int) -> bytes:
    """Two grids with the same rows."""
    a, b = tile(left, columns), tile(right, columns)
    return png(np.concatenate([a, np.full((len(a), 12, 3), 255, np.uint8), b], 1))


def strip(frames: np.ndarray, shown: int = 12) -> bytes:
    """Frames (T, N, H, W, C) with time from left to right, one example a row, at most `shown` times."""
    picked = np.unique(np.linspace(0, len(frames) - 1, shown).round().astype(int))
    chosen = frames[picked].swapaxes(0, 1)
    return png(tile(chosen.reshape(-1, *chosen.shape[2:]), len(picked)))


def loss_curve(rows: list[dict[str, float]]) -> bytes:
    """Loss and gradient norm over steps, from the rows of metrics.jsonl."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps = [row["step"] for row in rows]
    for axes, name in ((left, "loss"), (right, "grad_norm")):
        axes.plot(steps, [row[name] for row in rows], lw=1)
        axes.set(xlabel="step", title=name.replace("_", " "), yscale="log")
        axes.grid(alpha=0.3, which="both")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
