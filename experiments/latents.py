"""Latent diffusion (arXiv 2112.10752): pictures as the latents of an autoencoder that another run has trained.

    z = (m(x) - mean) / std        m the mean of q(z | x); mean and std of each channel over the training pictures
    x = D(std z + mean)

A run in latents keeps a copy of the autoencoder's averaged parameters in its own directory, `autoencoder/`, and the
statistics in its config.json: it needs the other run only to begin.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from experiments.checkpoint import Checkpoints
from experiments.data import Split, from_pixels, to_pixels
from experiments.errors import UserError
from experiments.info import DataInfo
from experiments.loading import load, read_config
from experiments.networks import Autoencoder
from experiments.recipe import Recipe
from jaxdiff import networks

FOLDER = "autoencoder"
_CHUNK = 32  # pictures that go through the autoencoder at once


@dataclasses.dataclass(frozen=True, kw_only=True)
class Latents:
    """What config.json says of latents.

    Attributes:
        network: the autoencoder.
        shape: (H, W, C) of the pictures.
        step: the autoencoder's checkpoint.
        mean, std: of each channel of the latents over the training pictures.
    """

    network: Autoencoder
    shape: tuple[int, int, int]
    step: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Codec:
    """Pictures to latents of unit variance and back, with the parameters of the autoencoder."""

    about: Latents
    params: Any

    def encode(self, pixels: Any) -> np.ndarray:
        """uint8 (N, H, W, C), an array or what is decoded when indexed, to float32 (N, h, w, c)."""
        encode, _ = _functions(self.about.network, self.about.shape)
        chunks = (from_pixels(pixels[i : i + _CHUNK]) for i in range(0, len(pixels), _CHUNK))
        raw = np.concatenate([_padded(lambda x: encode(self.params, x), chunk) for chunk in chunks])
        return (raw - np.asarray(self.about.mean, np.float32)) / np.asarray(self.about.std, np.float32)

    def decode(self, z: Any) -> np.ndarray:
        """Latents (..., h, w, c) to uint8 (..., H, W, C)."""
        _, decode = _functions(self.about.network, self.about.shape)
        z = np.asarray(z, np.float32) * np.asarray(self.about.std, np.float32) + np.asarray(self.about.mean, np.float32)
        rows = z.reshape(-1, *z.shape[-3:])
        chunks = (rows[i : i + _CHUNK] for i in range(0, len(rows), _CHUNK))
        pixels = [to_pixels(_padded(lambda z: decode(self.params, z), chunk)) for chunk in chunks]
        return np.concatenate(pixels).reshape(*z.shape[:-3], *self.about.shape)

    def save(self, run: epath.Path) -> None:
        """Keep the parameters in `run`; those that are there stay."""
        with Checkpoints(run / FOLDER, 1) as copies:
            copies.save(self.about.step, jax.device_get(self.params), {}, 0.0)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LatentPictures:
    """Pictures as float32 (b, h, w, c) latents, with their labels."""

    latents: np.ndarray
    labels: np.ndarray | None

    def __len__(self) -> int:
        return len(self.latents)

    def take(self, examples: np.ndarray, epochs: np.ndarray, seed: int) -> dict[str, np.ndarray]:
        batch = {"x0": self.latents[examples]}
        return batch if self.labels is None else batch | {"cond": self.labels[examples]}


def encoded(
    recipe: Recipe, info: DataInfo, train: Any, resumed: epath.Path | None = None
) -> tuple[DataInfo, Any, Codec | None]:
    """`(info, examples, codec)` of the latents of a training split, all of which are kept in memory.

    Args:
        recipe: `recipe.latents` is the run of the autoencoder; without one the data stay as they are.
        info: of the pictures.
        train: the pictures, a `Split`.
        resumed: the run's own directory if it goes on: its own autoencoder and statistics then serve, where it has any.

    Raises:
        UserError: no such run, one that is no autoencoder or unfinished, or whose pictures do not fit these.
    """
    if recipe.latents is None:
        return info, train, None
    if resumed is not None and _has_copy(resumed):
        about = read_config(resumed)[1].latents
        if about is not None and about.shape == info.shape:
            codec = restore(resumed, about)
            return _examples(info, train, codec, codec.encode(train.images))
    codec = _of_run(epath.Path(recipe.latents), info)
    raw = codec.encode(train.images)
    mean, std = raw.mean((0, 1, 2), dtype=np.float64), raw.std((0, 1, 2), dtype=np.float64)
    if not std.all():
        raise UserError(
            f"channel {int(np.argmin(std))} of the latents of {recipe.latents} is the same for all pictures; train the "
            "autoencoder for longer, or with fewer --network.latent"
        )
    about = dataclasses.replace(codec.about, mean=tuple(mean.tolist()), std=tuple(std.tolist()))
    raw -= np.float32(mean)
    raw /= np.float32(std)
    return _examples(info, train, Codec(about, codec.params), raw)


def restore(run: epath.Path, about: Latents) -> Codec:
    """The codec of a run in latents, from its own directory.

    Raises:
        UserError: the copy is missing or damaged.
    """
    if not (run / FOLDER).exists():
        raise UserError(
            f"{run} diffuses in latents, and its autoencoder, {run / FOLDER}, is missing; copy it from where the run "
            "was trained, or train anew with --latents"
        )
    init, _, _ = networks.encoder_decoder(about.network.make(about.shape, 0))
    with Checkpoints(run / FOLDER, 1) as copies:
        params, _, _ = copies.restore(jax.eval_shape(init, jax.random.key(0)))
    return Codec(about, params)


def _has_copy(run: epath.Path) -> bool:
    """Whether a run was started for so long that it keeps an autoencoder: a kill may have come between."""
    if not (run / "config.json").exists() or not (run / FOLDER).exists():
        return False
    with Checkpoints(run / FOLDER, 1) as copies:
        return bool(copies.steps())


def _of_run(run: epath.Path, info: DataInfo) -> Codec:
    """The codec of an autoencoder's run for these pictures, in the autoencoder's own units."""
    advice = "train one: python -m experiments.train autoencoder"
    if not (run / "config.json").exists():
        raise UserError(f"--latents needs the run of an autoencoder, and {run} has no config.json; {advice}")
    recipe, trained = read_config(run)
    network = recipe.network
    if not isinstance(network, Autoencoder):
        kind = type(network).__name__
        raise UserError(f"--latents needs the run of an autoencoder, and {run} is one of {kind}; {advice}")
    height, width, channels = info.shape
    if channels != trained.shape[-1]:
        raise UserError(
            f"the autoencoder in {run} takes pictures of {trained.shape[-1]} channels, and {info.name} has {channels}; "
            "choose --data.channels, or train another one"
        )
    try:
        _functions(network, info.shape)
    except ValueError as error:
        raise UserError(f"the autoencoder in {run} does not fit the pictures of {info.name}: {error}") from error
    _, params, step = load(run)
    none, one = (0.0,) * network.latent, (1.0,) * network.latent
    return Codec(Latents(network=network, shape=(height, width, channels), step=step, mean=none, std=one), params)


def _examples(
    info: DataInfo, train: Split, codec: Codec, latents: np.ndarray
) -> tuple[DataInfo, LatentPictures, Codec]:
    labels = None if train.labels is None else np.asarray(train.labels, np.int32)
    examples = LatentPictures(latents=latents, labels=labels)
    return dataclasses.replace(info, shape=latents.shape[1:], latents=codec.about), examples, codec


@functools.cache
def _functions(network: Autoencoder, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """`(encode, decode)`, compiled; encode gives the mean alone."""
    _, encode, decode = networks.encoder_decoder(network.make(shape, 0))
    return jax.jit(lambda params, x: encode(params, x)[0]), jax.jit(decode)


def _padded(function: Any, chunk: np.ndarray) -> np.ndarray:
    """`function(chunk)` in one shape whatever the chunk's size: one compilation."""
    size = len(chunk)
    full = np.concatenate([chunk, np.zeros((_CHUNK - size, *chunk.shape[1:]), chunk.dtype)])
    return np.asarray(function(jnp.asarray(full)))[:size]
