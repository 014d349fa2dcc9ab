"""Restore a picture with a run that was not trained for it: `python -m experiments.restore RUN --task inpaint ...`.

The run need not know of holes, few pixels or blur: `jaxdiff.conditioning` gives its denoiser what was measured.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import jax.numpy as jnp
import numpy as np
import tyro
from etils import epath

from experiments import cli, pictures
from experiments.data import from_pixels, to_pixels
from experiments.errors import UserError
from experiments.model import load
from experiments.recipe import Sampler
from experiments.restoring import Measured, measure, measured_shape, operator_of, psnr, restore
from jaxdiff import grids, solvers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """Fill holes, sharpen, enlarge or colour a picture; several samples, their mean and how much they differ."""

    run: Annotated[str, tyro.conf.Suppress]
    sampler: Annotated[Sampler, tyro.conf.arg(name="")]
    task: Literal["inpaint", "superres", "deblur", "colorize"] = "inpaint"
    image: str | None = None
    """PNG or JPEG as it was measured: with a hole, small, blurred, or grey."""
    test: int | None = None
    """Instead of a file, this picture of the run's test split, measured here; then the error is known."""
    mask: str | None = None
    """For inpaint: a picture of the same size, white where to paint anew."""
    hole: int = 0
    """For inpaint, instead of a mask: side of a square in the middle, in pixels; half of the picture by default."""
    factor: int = 2
    """For superres: how much smaller the measured picture is, along each side."""
    blur: float = 1.5
    """For deblur: standard deviation of the Gaussian blur, in pixels, on a picture whose edges are joined."""
    method: Literal["mmps", "pigdm", "ddnm", "dps", "repaint", "replacement"] = "ddnm"
    """See docs/conditioning.md; repaint and replacement are for inpaint."""
    noise_std: float = 0.0
    """Of the measurement, for pictures in [-1, 1]; used by mmps and pigdm, and added with --test."""
    scale: float = 1.0
    """Of dps."""
    times: int = 10
    """Repetitions of each step; of repaint."""
    iterations: int = 3
    """Of the conjugate gradients of mmps."""
    count: int = 8
    """Samples."""
    seed: int = 0
    out: str | None = None
    """The picture; an array and figures go beside it. Default: RUN/restored/TASK-METHOD-seedSEED.png."""
    step: int | None = None
    """Which checkpoint; the newest by default."""
    unfinished: bool = False
    """Use the newest checkpoint of a run that has not finished."""


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    arguments = cli.run_arguments(Arguments, "python -m experiments.restore", argv)
    if (arguments.image is None) == (arguments.test is None):
        raise UserError("give a picture: --image FILE, or --test NUMBER of the run's test split")
    if min(arguments.count, arguments.times, arguments.iterations) < 1 or arguments.noise_std < 0:
        raise UserError("--count, --times and --iterations must be at least 1, and --noise-std not negative")
    run, sampler = epath.Path(arguments.run), arguments.sampler
    model, params, _ = load(run, step=arguments.step, unfinished=arguments.unfinished)
    if model.info.tokenizer is not None:
        raise UserError(f"restoring needs a run on pictures, but {run} was trained on text; use experiments.sample")
    if model.codec is not None:
        raise UserError(f"restoring needs a run on pixels, but {run} diffuses in latents; train one without --latents")
    if arguments.method == "dps" and not getattr(sampler.solver, "one_call", False):
        raise UserError("--method dps needs a solver that calls its denoiser once a step; use --solver ancestral")
    if arguments.method in ("repaint", "replacement") and isinstance(sampler.solver, solvers.DPMpp2M):
        # The default solver of the recipes has a history, which repeated steps cannot have.
        sampler = dataclasses.replace(sampler, solver=solvers.DDIM(), grid=grids.uniform)
    measured = _measured(arguments, model)
    began = time.perf_counter()
    samples, path, nfe = restore(
        model,
        params,
        measured,
        method=arguments.method,
        sampler=sampler,
        count=arguments.count,
        seed=arguments.seed,
        noise_std=arguments.noise_std,
        scale=arguments.scale,
        times=arguments.times,
        iterations=arguments.iterations,
    )
    figures: dict[str, Any] = {
        "task": arguments.task,
        "method": arguments.method,
        "nfe": nfe,
        "seconds": round(time.perf_counter() - began, 1),
        "spread": float(samples.std(0).mean()),
    }
    mean = samples.mean(0, keepdims=True)
    if measured.truth is not None:
        figures |= {
            "psnr_mean_of_samples": float(psnr(mean, measured.truth)[0]),
            "psnr_samples": float(psnr(samples, np.repeat(measured.truth, len(samples), 0)).mean()),
        }
    name = f"{arguments.task}-{arguments.method}-seed{arguments.seed}.png"
    out = epath.Path(arguments.out) if arguments.out else run / "restored" / name
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(_sheet(measured, samples, mean))
    out.with_name(f"{out.stem}-steps.png").write_bytes(pictures.strip(to_pixels(path)[:, None]))
    with out.with_suffix(".npz").open("wb") as file:
        np.savez_compressed(file, samples=samples, mean=mean[0], spread=samples.std(0), measured=measured.y[0])
    out.with_suffix(".json").write_text(json.dumps(figures, indent=1) + "\n")
    told = ", ".join(
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in figures.items()
    )
    print(f"{told}: {out}", file=sys.stderr)
    return figures


def _measured(arguments: Arguments, model: Any) -> Measured:
    shape = model.info.shape
    hole = _hole(arguments, shape) if arguments.task == "inpaint" else None
    operator = operator_of(arguments.task, shape, hole=hole, factor=arguments.factor, blur=arguments.blur)
    if arguments.test is not None:
        test = model.recipe.data.load().test
        if not 0 <= arguments.test < len(test):
            raise UserError(f"--test must lie in 0..{len(test) - 1}, got {arguments.test}")
        picture = from_pixels(np.asarray(test[arguments.test][0]))[None]
        return measure(operator, picture, arguments.noise_std, arguments.seed)
    wanted = measured_shape(operator, shape)
    picture = from_pixels(_read(str(arguments.image), wanted[-1]))[None]
    if picture.shape[1:] != wanted:
        raise UserError(
            f"--image must have {wanted[0]} x {wanted[1]} pixels for {arguments.task} with this run, got "
            f"{picture.shape[1]} x {picture.shape[2]}; resize it"
        )
    return Measured(operator, np.asarray(operator(jnp.asarray(picture))) if arguments.task == "inpaint" else picture)


def _hole(arguments: Arguments, shape: tuple[int, ...]) -> np.ndarray:
    height, width = shape[:2]
    if arguments.mask is not None:
        if arguments.hole:
            raise UserError("--mask and --hole say the same: give one of them")
        return _read(arguments.mask, 1)[:, :, 0] > 127
    side = arguments.hole or min(height, width) // 2
    if not 0 < side <= min(height, width):
        raise UserError(f"--hole must lie in 1..{min(height, width)}, got {side}")
    hole, top, left = np.zeros((height, width), bool), (height - side) // 2, (width - side) // 2
    hole[top : top + side, left : left + side] = True
    return hole


def _read(path: str, channels: int) -> np.ndarray:
    """uint8 (H, W, channels) of a picture file."""
    from PIL import Image, UnidentifiedImageError

    if not Path(path).is_file():
        raise UserError(f"no such picture: {path}")
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    except UnidentifiedImageError as error:
        raise UserError(f"{path} is no picture that can be read; give a PNG or JPEG") from error
    return pixels.reshape(*pixels.shape[:2], -1)


def _sheet(measured: Measured, samples: np.ndarray, mean: np.ndarray) -> bytes:
    """One row: what was measured (and the truth), the mean, the spread, and the samples."""
    spread = 2 * np.clip(samples.std(0, keepdims=True), 0, 1) - 1
    height, width, channels = samples.shape[1:]
    y = measured.y
    if y.shape[-1] != channels:
        y = np.repeat(y, channels, -1)
    y = y.repeat(height // y.shape[1], 1).repeat(width // y.shape[2], 2)
    parts = [y, *([] if measured.truth is None else [measured.truth]), mean, spread, samples]
    row = np.concatenate(parts)
    return pictures.grid(to_pixels(row), len(row))


if __name__ == "__main__":
    cli.program(main)
