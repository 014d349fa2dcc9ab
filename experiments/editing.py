"""Editing pictures of a run's kind: by noise, by inversion, inside a mask, around a pasted object.

See `jaxdiff.conditioning.editing` for what each is in formulas.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff
from experiments import picture_files
from experiments.errors import UserError
from experiments.model import Model
from experiments.recipe import Sampler
from jaxdiff import conditioning, grids, guidance, solvers

METHODS = ("sdedit", "inversion")
_INVERTIBLE = (solvers.DDIM, solvers.Euler, solvers.Heun, solvers.DPMSolver2, solvers.DPMpp2S)


@dataclasses.dataclass(frozen=True, eq=False)
class Edited:
    """What `edit` made.

    Attributes:
        samples: float32 (N, H, W, C), about [-1, 1].
        path: float32 (times, H, W, C), the first sample from its start to its end.
        nfe: network evaluations of one sample.
    """

    samples: np.ndarray
    path: np.ndarray
    nfe: int


def edit(
    model: Model,
    params: Any,
    picture: np.ndarray,
    *,
    method: str,
    strength: float,
    sampler: Sampler,
    source: int | np.ndarray | None = None,
    target: int | np.ndarray | None = None,
    changed: np.ndarray | None = None,
    times: int = 1,
    count: int = 1,
    seed: int = 0,
) -> Edited:
    """`count` edits of a picture; outside of `changed` they are the picture bit for bit.

    Args:
        picture: float32 (1, H, W, C) in [-1, 1], or as many as samples.
        method: one of `METHODS`; an inversion draws nothing, so that all of its samples are one.
        strength: time of [0, 1] to which the picture goes.
        sampler: solver, grid, steps and the guidance scale of `target`.
        source: the class that the picture is inverted under, one or one for each sample; None for no condition.
        target: the class that it is drawn with.
        changed: bool (H, W), True where the picture may change; for sdedit.
        times: repetitions of each step with a mask, see `conditioning.RePaint`.
        seed: of the noise.

    Raises:
        UserError: a run on other than pictures as real numbers, or a strength, mask or solver that does not fit.
    """
    picture_files.check(model, "editing")
    if changed is not None and method != "sdedit":
        raise UserError("a mask keeps what noise would change, so it is for --method sdedit; leave one of them out")
    if (changed is not None or method == "inversion") and isinstance(sampler.solver, solvers.DPMpp2M):
        # The default solver of the recipes has a history, which repeated steps and ways back cannot have.
        sampler = dataclasses.replace(sampler, solver=solvers.DDIM(), grid=grids.uniform)
    drawn = isinstance(sampler.solver, solvers.DDIM) and float(sampler.solver.eta) != 0
    if method == "inversion" and (drawn or not isinstance(sampler.solver, _INVERTIBLE)):
        raise UserError(
            "inversion needs a solver that draws nothing and has no history; use --solver "
            + ", ".join(kind.__name__.lower() for kind in _INVERTIBLE)
        )
    solver, run = sampler.solver, jax.jit(jaxdiff.sample, static_argnames=("spec", "trajectory"))
    start = jnp.asarray(np.broadcast_to(picture, (count, *picture.shape[1:])))
    key, shared = jax.random.key(seed), {"trajectory": True}
    moves = lambda path, times: np.asarray(path[:, 0])[np.r_[True, np.diff(times) != 0]]
    try:
        grid = conditioning.editing.below(sampler.times(model.process.schedule), strength)
        denoise, evaluations = _denoiser(model, params, target, sampler.guidance_scale, count)
        if method == "inversion":
            back, _ = _denoiser(model, params, source, 1.0, count)
            x, there = run(key, model.process, back, solver, grid[::-1], x=start, **shared)
            x, info = run(key, model.process, denoise, solver, grid, x=x, **shared)
            path = np.concatenate([moves(there.trajectory, grid[::-1]), moves(info.trajectory, grid)[1:]])
            return Edited(np.asarray(x), path, int(there.nfe) + int(info.nfe) * evaluations)
        if changed is not None:
            kept = jnp.broadcast_to(jnp.asarray(~_fitting(changed, model))[None, :, :, None], start.shape)
            solver = conditioning.RePaint(inner=solver, mask=kept, value=start, times=times)
        x, info = run(key, model.process, denoise, solver, grid, x0=start, **shared)
    except ValueError as error:
        raise UserError(f"--method {method}: {error}") from error
    samples = np.asarray(x)
    if changed is not None:
        samples = np.where(changed[None, :, :, None], samples, np.asarray(start))
    return Edited(samples, moves(info.trajectory, grid), int(info.nfe) * evaluations)


def _denoiser(model: Model, params: Any, label: int | np.ndarray | None, scale: float, count: int) -> tuple[Any, int]:
    """The denoiser under a class, or under none, and its network evaluations a call."""
    model.check_told(label, guidance_scale=scale)
    plain = model.denoiser(params)
    if not model.info.classes:
        return plain, 1
    null = len(model.info.classes)
    told = jnp.broadcast_to(jnp.asarray(null if label is None else label, jnp.int32), count)
    if label is None or scale == 1:
        return guidance.condition(plain, told), 1
    return guidance.classifier_free(plain, told, jnp.int32(null), guidance.scale(scale=jnp.float32(scale))), 2


def _fitting(changed: np.ndarray, model: Model) -> np.ndarray:
    height, width = model.info.shape[:2]
    if changed.shape != (height, width):
        raise UserError(
            f"the mask must have the picture's {height} x {width} pixels, got "
            f"{changed.shape[0]} x {changed.shape[1]}; resize it"
        )
    if not changed.any():
        raise UserError("the mask lets nothing change; paint white what may")
    return changed


def paste(picture: np.ndarray, pasted: np.ndarray, at: tuple[int, int], margin: int) -> tuple[np.ndarray, np.ndarray]:
    """The picture with an object on it, and where it may change: the object and `margin` pixels around it.

    Args:
        picture: float32 (1, H, W, C) in [-1, 1].
        pasted: float32 (h, w, C + 1): the object in [-1, 1] and its opacity in [0, 1].
        at: (x, y) of its upper left corner.
        margin: pixels, not negative.

    Returns:
        float32 (1, H, W, C) and bool (H, W).

    Raises:
        UserError: an object that does not lie in the picture, or that nothing is seen of.
    """
    (height, width), (h, w), (x, y) = picture.shape[1:3], pasted.shape[:2], at
    if not (0 <= x <= width - w and 0 <= y <= height - h):
        raise UserError(
            f"an object of {h} x {w} pixels at {x},{y} does not lie in the picture of {height} x {width}; "
            f"--at x,y must lie in 0..{width - w}, 0..{height - h}, or the object must be smaller"
        )
    colour, opacity = pasted[..., :-1], pasted[..., -1:]
    if not (opacity > 0).any():
        raise UserError("nothing is seen of the object: it is transparent everywhere; give one that is not")
    if margin < 0:
        raise UserError(f"--margin must not be negative, got {margin}")
    place = (0, slice(y, y + h), slice(x, x + w))
    result, seen = picture.copy(), np.zeros((height, width), bool)
    result[place] = opacity * colour + (1 - opacity) * result[place]
    seen[place[1:]] = opacity[..., 0] > 0
    reach = np.arange(-margin, margin + 1)
    around = np.pad(seen, margin)
    grown = np.any([np.roll(around, (i, j), (0, 1)) for i in reach for j in reach], 0)
    return result, grown[margin : margin + height, margin : margin + width]
