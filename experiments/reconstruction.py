"""How well an autoencoder keeps pictures: PSNR and SSIM on the test split, beside codes of as many numbers.

bicubic         the picture smaller by the autoencoder's factor f, and enlarged again (C / f^2 of the numbers)
PCA             of whole pictures: as many components, of the training pictures, as there are latent numbers
PCA of squares  of f x f pixels: as many components for each square as the latents have channels
"""

from typing import Any, cast

import jax
import numpy as np
from etils import epath

from experiments import codes, pictures, report, run_directory
from experiments.data import Images
from experiments.errors import UserError
from experiments.hardware import describe_devices, versions
from experiments.loading import check_same, load
from experiments.model import Model
from experiments.networks import Autoencoder
from jaxdiff.metrics import psnr, ssim

SHOWN = ("psnr", "ssim", "numbers")
_PICTURES = 4_096  # at most, that a PCA is made of


def evaluate(
    run: epath.PathLike,
    images: Images | None = None,
    *,
    step: int | None = None,
    unfinished: bool = False,
    sigma_rel: float | None = None,
) -> dict[str, Any]:
    """Judge the autoencoder in `run`; leaves evaluation.json, evaluation.png and a new report.html there.

    Args:
        images: the data it was trained on; the recipe's own, loaded here, by default.
        step, unfinished, sigma_rel: which parameters, see `experiments.loading.load`.

    Returns:
        What evaluation.json holds: `about`, `shown`, and `sets`, the figures of `compare` on the test pictures.

    Raises:
        UserError: no such run or checkpoint, a run that is no autoencoder, or other data than it was trained on.
    """
    run = epath.Path(run)
    model, params, step = load(run, step=step, unfinished=unfinished, sigma_rel=sigma_rel)
    if not isinstance(model.recipe.network, Autoencoder):
        raise UserError(f"{run} is no autoencoder but a {type(model.recipe.network).__name__}; use evaluation.evaluate")
    images = images or cast(Images, model.recipe.data.load())
    check_same(run, model, images)
    test = np.asarray(images.test.images[:])
    rows = np.random.default_rng(0).permutation(len(images.train))[:_PICTURES]
    train = np.asarray(images.train.images[np.sort(rows)])
    made, sets = compare(model, params, train, test)
    result = {
        "about": {
            "pictures": len(test),
            "of": int(np.prod(images.shape)),
            "numbers": sets["autoencoder"]["numbers"],
            "checkpoint": step,
            "hardware": describe_devices(jax.devices()[:1]),
            "versions": versions(),
            "data": images.name,
            "checksum": images.checksum,
        },
        "shown": list(SHOWN),
        "sets": sets,
    }
    run_directory.write_json(run / "evaluation.json", result)
    chosen = np.linspace(0, len(test) - 1, min(len(test), 8)).astype(int)
    rows = [test[chosen], *(x[chosen] for x in made.values())]
    (run / "evaluation.png").write_bytes(pictures.grid(np.concatenate(rows), len(chosen)))
    report.write(run)
    return result


def compare(
    model: Model, params: Any, train: np.ndarray, pixels: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, float | None]]]:
    """Pictures through each code, and its figures.

    Args:
        train: uint8 (N, H, W, C), what the PCAs are made of.
        pixels: uint8 (M, H, W, C), the pictures to keep.

    Returns:
        uint8 (M, H, W, C) by the name of the code; and the means of `psnr` in dB (of 0..255) and of `ssim` (None for
        pictures smaller than its window), and `numbers`.
    """
    network: Any = model.recipe.network
    height, width, channels = pixels.shape[1:]
    factor = network.patch * 2 ** (len(network.multipliers) - 1)
    squares = height // factor * (width // factor)
    made = {
        "autoencoder": codes.reconstruct(model, params, pixels),
        "bicubic": codes.bicubic(pixels, factor),
        "PCA": codes.pca(train, pixels, squares * network.latent),
        "PCA of squares": codes.pca_of_squares(train, pixels, factor, network.latent),
    }
    large = min(height, width) >= 11
    figures = {
        name: {
            "psnr": float(psnr(x, pixels, span=255).mean()),
            "ssim": float(ssim(x, pixels, span=255).mean()) if large else None,
            "numbers": squares * (channels if name == "bicubic" else network.latent),
        }
        for name, x in made.items()
    }
    return made, figures


def table(result: dict[str, Any]) -> str:
    """The figures of `evaluate`'s result, a row for each code."""
    number = lambda value: "-" if value is None else f"{value:.2f}"
    lines = [f"{'':16}{'PSNR, dB':>10}{'SSIM':>8}{'numbers':>9}"]
    for name, row in result["sets"].items():
        lines.append(f"{name:16}{number(row['psnr']):>10}{number(row['ssim']):>8}{row['numbers']:>9}")
    return "\n".join(lines)
