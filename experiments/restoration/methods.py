"""Restoring pictures: what was measured as an operator, and the methods that use it.

`trained` asks a network that was told in training what is measured; the others need none that was.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff
from experiments import picture_files
from experiments.errors import UserError
from experiments.model import Model
from experiments.recipe import Sampler
from experiments.restoration.tasks import is_trained, told
from jaxdiff import conditioning, guidance, metrics
from jaxdiff.conditioning import operators

Method: TypeAlias = Literal["trained", "mmps", "pigdm", "ddnm", "dps", "repaint", "replacement"]


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
    """Pictures as they were measured.

    Attributes:
        operator: A, from pictures of the run to what was measured.
        y: float32 (N, h, w, c), A x0 + noise.
        truth: float32 (N, H, W, C) in [-1, 1], where it is known.
    """

    operator: Any
    y: np.ndarray
    truth: np.ndarray | None = None


def operator_of(
    task: str, shape: tuple[int, ...], *, hole: np.ndarray | None, factor: int, blur: float
) -> conditioning.operators.Operator:
    """The operator of a task on pictures (H, W, C).

    Args:
        hole: bool (H, W), True where to paint anew; for inpaint.
        factor: of superres.
        blur: standard deviation in pixels; for deblur.

    Raises:
        UserError: a hole of another size, that is everything or nothing, or numbers that do not fit the picture.
    """
    try:
        if task == "inpaint":
            if hole is None or hole.shape != shape[:2]:
                got = "none" if hole is None else " x ".join(map(str, hole.shape))
                raise UserError(
                    f"the mask must have the picture's {shape[0]} x {shape[1]} pixels, got {got}; resize it"
                )
            return operators.Mask(mask=jnp.asarray(~hole)[None, :, :, None])
        if task == "superres":
            return operators.AveragePool(factor=factor)
        if task == "deblur":
            return operators.Blur.gaussian(blur)
        if shape[-1] != 3:
            raise UserError(
                f"colorize needs a run on pictures of 3 channels, this one has {shape[-1]}; use another task"
            )
        return operators.Channels.grey(3)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(str(error)) from error


def measured_shape(operator: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of what the operator measures of one picture (H, W, C).

    Raises:
        UserError: it does not fit the picture.
    """
    try:
        return jax.eval_shape(operator, jax.ShapeDtypeStruct((1, *shape), np.float32)).shape[1:]
    except ValueError as error:
        raise UserError(str(error)) from error


def restore(
    model: Model,
    params: Any,
    measured: Measured,
    *,
    method: Method,
    sampler: Sampler,
    count: int,
    seed: int,
    noise_std: float = 0.0,
    sigma_data: float = 0.5,
    scale: float = 1.0,
    times: int = 10,
    iterations: int = 3,
) -> tuple[np.ndarray, np.ndarray, int]:
    """`(samples, their path, network evaluations)`: float32 (N count, H, W, C), those of a picture one
    after the other, and (steps + 1, H, W, C) of the first.

    What an inpainting sees comes back bit for bit.

    Args:
        method: see `Method`; repaint and replacement are for inpainting, trained for what the run was trained for.
        sampler: solver, grid and steps.
        count: samples of each picture.
        seed: of the noise.
        noise_std: of the measurement, in units of pictures in [-1, 1]; for mmps and pigdm.
        sigma_data: of pigdm, in the same units.
        scale: of dps.
        times: of repaint.
        iterations: of mmps.

    Raises:
        UserError: a run on other than real numbers, or a method or solver that does not fit.
    """
    picture_files.check(model, "restoring")
    operator, y = measured.operator, jnp.asarray(np.repeat(measured.y, count, 0))
    seen = isinstance(operator, operators.Mask)
    if method in ("repaint", "replacement") and not seen:
        raise UserError(f"{method} puts known pixels in, so it is for --task inpaint; use mmps, pigdm, ddnm or dps")
    if method == "trained" and not is_trained(model.recipe.conditions, operator):
        raise UserError(
            "this run was not trained for what is measured; train one with --conditions.holes or --conditions.smaller, "
            "or use --method ddnm"
        )
    if method != "trained":
        model.check_told(None)
    denoise, solver = model.denoiser(params), sampler.solver
    try:
        if method == "trained":
            given = told(operator, y, model.info.shape)
            observed, cond = jax.tree.map(jnp.asarray, (given.get("observed"), given["cond"]))
            model.check_told(cond, observed)
            denoise = guidance.condition(model.denoiser(params, observed), cond)
            if "measured" in given and noise_std == 0:
                denoise = conditioning.DDNM(denoise, operator, y)
        elif method == "mmps":
            denoise = conditioning.MMPS(denoise, operator, y, model.process, noise_std=noise_std, iterations=iterations)
        elif method == "pigdm":
            denoise = conditioning.PiGDM(
                denoise, operator, y, model.process, noise_std=noise_std, sigma_data=sigma_data
            )
        elif method == "ddnm":
            denoise = conditioning.DDNM(denoise, operator, y)
        elif method == "dps":
            solver = conditioning.DPS(inner=solver, operator=operator, y=y, scale=scale)
        else:
            mask = jnp.broadcast_to(operator.mask, y.shape)
            repeat = times if method == "repaint" else 1
            solver = conditioning.RePaint(inner=solver, mask=mask, value=y, times=repeat)
        run = jax.jit(jaxdiff.sample, static_argnames=("spec", "trajectory"))
        spec = jax.ShapeDtypeStruct((len(y), *model.info.shape), jnp.float32)
        grid = sampler.times(model.process.schedule)
        x, info = run(jax.random.key(seed), model.process, denoise, solver, grid, spec=spec, trajectory=True)
    except ValueError as error:
        raise UserError(f"--method {method}: {error}") from error
    samples = np.asarray(x)
    if seen:
        samples = np.where(np.asarray(operator.mask), np.asarray(y), samples)
    return samples, np.asarray(info.trajectory[:, 0]), int(info.nfe)


def psnr(x: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Decibels of each picture (N, H, W, C), as files hold it: cut to [-1, 1]."""
    return metrics.psnr(np.clip(x, -1, 1), truth, span=2.0)


def measure(operator: Callable[..., Any], picture: np.ndarray, noise_std: float, seed: int) -> Measured:
    """Pictures (N, H, W, C) in [-1, 1] as the operator and noise would measure it."""
    measured_shape(operator, picture.shape[1:])
    y = np.asarray(operator(jnp.asarray(picture)))
    y = y + noise_std * np.random.default_rng(seed).standard_normal(y.shape).astype(np.float32)
    return Measured(
        operator, np.asarray(operator(jnp.asarray(y))) if isinstance(operator, operators.Mask) else y, picture
    )
