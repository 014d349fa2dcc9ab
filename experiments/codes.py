"""Pictures through codes of few numbers: an autoencoder's, and those that any autoencoder must beat."""

from typing import Any

import jax
import numpy as np

from experiments import pictures
from experiments.data import from_pixels, to_pixels
from experiments.model import Model

_SQUARES = 200_000
_CHUNK = 32


def reconstruct(model: Model, params: Any, pixels: np.ndarray) -> np.ndarray:
    """uint8 pictures (N, H, W, C) through the mean of their latents."""
    through = jax.jit(lambda x: model.decode(params, model.encode(params, x)[0]))
    chunks = (from_pixels(pixels[i : i + _CHUNK]) for i in range(0, len(pixels), _CHUNK))
    return np.concatenate([to_pixels(through(chunk)) for chunk in chunks])


def sheet(model: Model, params: Any, examples: np.ndarray, columns: int = 8) -> bytes:
    """Pictures in [-1, 1] in rows, below each row its reconstruction: a PNG."""
    shown = to_pixels(examples[: 2 * columns])
    pairs = zip(
        *(np.array_split(x, max(1, len(shown) // columns)) for x in (shown, reconstruct(model, params, shown))),
        strict=True,
    )
    return pictures.grid(np.concatenate([x for pair in pairs for x in pair]), min(columns, len(shown)))


def bicubic(pixels: np.ndarray, factor: int) -> np.ndarray:
    """uint8 (N, H, W, C) scaled down by `factor` (antialiased) and up again."""
    from PIL import Image

    def one(array: np.ndarray) -> np.ndarray:
        picture = Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
        width, height = picture.size
        small = picture.resize((width // factor, height // factor), Image.Resampling.BICUBIC)
        return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).reshape(array.shape)

    return np.stack([one(array) for array in pixels])


def pca(train: np.ndarray, test: np.ndarray, components: int) -> np.ndarray:
    """uint8 test pictures projected on the first principal components of the training pictures, in float32."""
    x = train.reshape(len(train), -1).astype(np.float32)
    y = test.reshape(len(test), -1).astype(np.float32)
    mean = x.mean(0)
    x -= mean
    if len(x) < x.shape[1]:  # the components are combinations of the rows
        values, vectors = np.linalg.eigh(x @ x.T)
        kept = values[::-1][:components] > 1e-6 * values[-1]
        directions = x.T @ (vectors[:, ::-1][:, :components][:, kept] / np.sqrt(values[::-1][:components][kept]))
    else:
        directions = np.linalg.eigh(x.T @ x)[1][:, ::-1][:, :components]
    made = mean + (y - mean) @ directions @ directions.T
    return np.clip(np.rint(made), 0, 255).astype(np.uint8).reshape(test.shape)


def pca_of_squares(train: np.ndarray, test: np.ndarray, side: int, components: int) -> np.ndarray:
    """The same for each square of `side` pixels by itself, with one PCA for all of them."""
    cut = lambda a: a.reshape(len(a), a.shape[1] // side, side, a.shape[2] // side, side, -1).swapaxes(2, 3)
    squares = cut(train).reshape(-1, side, side, train.shape[-1])
    chosen = np.random.default_rng(0).permutation(len(squares))[:_SQUARES]
    parts = cut(test)
    made = pca(squares[chosen], parts.reshape(-1, side, side, test.shape[-1]), components)
    return made.reshape(parts.shape).swapaxes(2, 3).reshape(test.shape)
