"""Restore a picture with any run on pictures: `python -m experiments.restore RUN --task inpaint ...`.

A run that was trained for the task is told what was measured. Others need not know of holes, few pixels or blur:
`jaxdiff.conditioning` gives their denoiser what was measured.
"""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from etils import epath

from experiments import cli, picture_files, pictures
from experiments.data import to_pixels
from experiments.errors import UserError
from experiments.loading import load
from experiments.restoration.methods import Measured, Method, measure, measured_shape, operator_of, psnr, restore
from experiments.restoration.tasks import is_trained
from jaxdiff import grids, solvers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(cli.RunArguments):
    """Fill holes, sharpen, enlarge or colour a picture; several samples, their mean and how much they differ."""

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
    method: Method | None = None
    """See docs/conditioning.md; repaint and replacement are for inpaint. Default: trained if the run was, else ddnm."""
    noise_std: float = 0.0
    """Of the measurement, for pictures in [-1, 1]; used by mmps and pigdm, and added with --test."""
    sigma_data: float = 0.5
    """Of pigdm: standard deviation of a number of the data, pictures in [-1, 1]."""
    scale: float = 1.0
    """Of dps."""
    times: int = 10
    """Repetitions of each step; of repaint."""
    iterations: int = 3
    """Of the conjugate gradients of mmps."""
    count: int = 8
    """Samples."""
    out: str | None = None
    """The picture; an array and figures go beside it. Default: RUN/restored/TASK-METHOD-seedSEED.png."""


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    arguments = cli.run_arguments(Arguments, "python -m experiments.restore", argv)
    picture_files.check_given(arguments.image, arguments.test)
    if min(arguments.count, arguments.times, arguments.iterations) < 1 or arguments.noise_std < 0:
        raise UserError("--count, --times and --iterations must be at least 1, and --noise-std not negative")
    if arguments.sigma_data <= 0:
        raise UserError(f"--sigma-data must be positive, got {arguments.sigma_data}")
    run, sampler = epath.Path(arguments.run), arguments.sampler
    model, params, _ = load(run, step=arguments.step, unfinished=arguments.unfinished)
    picture_files.check(model, "restoring")
    if arguments.method == "dps" and not getattr(sampler.solver, "one_call", False):
        raise UserError("--method dps needs a solver that calls its denoiser once a step; use --solver ancestral")
    if arguments.method in ("repaint", "replacement") and isinstance(sampler.solver, solvers.DPMpp2M):
        # The default solver of the recipes has a history, which repeated steps cannot have.
        sampler = dataclasses.replace(sampler, solver=solvers.DDIM(), grid=grids.uniform)
    measured = _measured(arguments, model)
    method = arguments.method or ("trained" if is_trained(model.recipe.conditions, measured.operator) else "ddnm")
    began = time.perf_counter()
    samples, path, nfe = restore(
        model,
        params,
        measured,
        method=method,
        sampler=sampler,
        count=arguments.count,
        seed=arguments.seed,
        noise_std=arguments.noise_std,
        sigma_data=arguments.sigma_data,
        scale=arguments.scale,
        times=arguments.times,
        iterations=arguments.iterations,
    )
    figures: dict[str, Any] = {
        "task": arguments.task,
        "method": method,
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
    name = f"{arguments.task}-{method}-seed{arguments.seed}.png"
    out = epath.Path(arguments.out) if arguments.out else run / "restored" / name
    arrays = {"samples": samples, "mean": mean[0], "spread": samples.std(0), "measured": measured.y[0]}
    picture_files.write(out, _sheet(measured, samples, mean), path, arrays, figures)
    return figures


def _measured(arguments: Arguments, model: Any) -> Measured:
    shape = model.info.shape
    hole = _hole(arguments, shape) if arguments.task == "inpaint" else None
    operator = operator_of(arguments.task, shape, hole=hole, factor=arguments.factor, blur=arguments.blur)
    if arguments.test is not None:
        picture, _ = picture_files.of_test(model, arguments.test)
        return measure(operator, picture, arguments.noise_std, arguments.seed)
    what = f"what {arguments.task} measures of the pictures of this run"
    picture = picture_files.of_file(str(arguments.image), measured_shape(operator, shape), what)
    return Measured(operator, np.asarray(operator(jnp.asarray(picture))) if arguments.task == "inpaint" else picture)


def _hole(arguments: Arguments, shape: tuple[int, ...]) -> np.ndarray:
    height, width = shape[:2]
    if arguments.mask is not None:
        if arguments.hole:
            raise UserError("--mask and --hole say the same: give one of them")
        return picture_files.read(arguments.mask, 1)[:, :, 0] > 127
    side = arguments.hole or min(height, width) // 2
    if not 0 < side <= min(height, width):
        raise UserError(f"--hole must lie in 1..{min(height, width)}, got {side}")
    hole, top, left = np.zeros((height, width), bool), (height - side) // 2, (width - side) // 2
    hole[top : top + side, left : left + side] = True
    return hole


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
