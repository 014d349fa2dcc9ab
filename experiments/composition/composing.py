"""Several classes on one canvas with a run that was trained on single pictures: the denoiser of a layout, and seams.

Each window of the network's size is told of its regions (`conditioning.windows`), each region of its concepts:

    D = D_u + scale sum_i sign_i (D_i - D_u)      (arXiv 2206.01714, eq. 11 and 12)
"""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff
from experiments import picture_files
from experiments.composition.layout import Region
from experiments.errors import UserError
from experiments.model import Model
from experiments.recipe import Sampler
from jaxdiff import solvers
from jaxdiff.conditioning import compose


@dataclasses.dataclass(frozen=True, eq=False)
class Composed:
    """What `draw` made.

    Attributes:
        samples: float32 (N, H, W, C), about [-1, 1].
        path: float32 (steps + 1, H, W, C), the first sample at each time of the grid.
        nfe: network evaluations of one canvas: calls, times windows, times concepts.
        windows: estimates of a window in each call, one that is told of two regions counts twice.
        seconds: with compilation.
    """

    samples: np.ndarray
    path: np.ndarray
    nfe: int
    windows: int
    seconds: float


def plan(
    model: Model,
    params: Any,
    regions: Sequence[Region],
    stride: tuple[int, int],
    *,
    scale: float,
    negative_scale: float | None = None,
    circular: bool = False,
    own: float = 0.75,
) -> tuple[compose.Windows, int]:
    """The denoiser of a layout, and network evaluations in one call of it.

    Args:
        regions: from `canvas.parse`, together the whole canvas.
        stride: from one window to the next, down and across.
        scale: of guidance, for concepts that should be there.
        negative_scale: for those that should not; `scale` by default.
        circular: whether the canvas is joined at its left and right ends.
        own: see `conditioning.windows`.

    Raises:
        UserError: a run on other than pictures as real numbers, or windows that do not tile the canvas.
    """
    picture_files.check(model, "composing")
    most, null = max(len(region.labels) for region in regions), len(model.info.classes)
    labels, scales = np.full((len(regions), most), null, np.int32), np.zeros((len(regions), most), np.float32)
    weight = {1: scale, -1: -(scale if negative_scale is None else negative_scale)}
    for i, region in enumerate(regions):
        labels[i, : len(region.labels)] = region.labels
        scales[i, : len(region.labels)] = [weight[sign] for sign in region.signs]
    plain = model.denoiser(params)
    # One class at scale 1 is the conditional model itself: half the evaluations.
    alone = most < 2 and bool((scales == 1).all())
    model.check_told(labels if alone and (labels != null).all() else None)
    told = jax.tree_util.Partial(_one if alone else _several, plain, jnp.int32(null))
    try:
        denoise = compose.windows(
            told,
            (regions[0].mask.shape[0], regions[0].mask.shape[1]),
            (model.info.shape[0], model.info.shape[1]),
            stride,
            circular=(False, circular),
            regions=jnp.asarray(np.stack([region.mask for region in regions]), jnp.float32),
            conds={"labels": labels, "scales": scales},
            own=own,
        )
    except ValueError as error:
        raise UserError(f"{error}. --canvas and --stride say where windows lie") from error
    return denoise, len(denoise.corners) * (1 if alone else most + 1)


def _several(denoise: Any, null: jax.Array, x: jax.Array, t: Any, cond: Any) -> jax.Array:
    return compose.concepts(denoise, cond["labels"], null, cond["scales"])(x, t)


def _one(denoise: Any, null: jax.Array, x: jax.Array, t: Any, cond: Any) -> jax.Array:
    return denoise(x, t, cond["labels"][:, 0] if cond["labels"].shape[1] else jnp.full(len(x), null))


def draw(
    model: Model,
    denoise: compose.Windows,
    evaluations: int,
    *,
    sampler: Sampler,
    count: int,
    seed: int = 0,
    corrections: int = 0,
    snr: float = 0.1,
    batch_size: int = 64,
) -> Composed:
    """`count` canvases; sample i depends on the seed and on i alone.

    Args:
        denoise, evaluations: from `plan`.
        sampler: solver, grid and steps.
        corrections: Langevin steps after each step of the solver, which bring a product of concepts nearer to its law
            (arXiv 2302.11552).
        snr: size of these.
        batch_size: canvases drawn at once.
    """
    solver = sampler.solver
    if corrections:
        solver = solvers.PredictorCorrector(inner=solver, corrections=corrections, snr=snr)
    size, grid = min(batch_size, count), sampler.times(model.process.schedule)
    spec = jax.ShapeDtypeStruct((size, *denoise.canvas, model.info.shape[-1]), jnp.float32)
    run = jax.jit(jaxdiff.sample, static_argnames=("spec", "trajectory"))
    began, chunks, path, nfe = time.perf_counter(), [], None, 0
    try:
        for first in range(0, count, size):
            key = jax.random.key(seed)
            x, info = run(key, model.process, denoise, solver, grid, spec=spec, first=first, trajectory=True)
            chunks.append(np.asarray(x)[: count - first])
            path, nfe = np.asarray(info.trajectory[:, 0]) if path is None else path, int(info.nfe)
    except ValueError as error:
        raise UserError(str(error)) from error
    return Composed(
        samples=np.concatenate(chunks),
        path=np.asarray(path),
        nfe=nfe * evaluations,
        windows=len(denoise.corners),
        seconds=round(time.perf_counter() - began, 2),
    )


def seams(pictures: np.ndarray, denoise: compose.Windows, regions: Sequence[Region], circular: bool) -> dict[str, Any]:
    """Seam ratios: mean step between neighbouring pixels across borders, over that just beside; 1 where nothing shows.

    Of the borders of `regions` (`region_seam`), of the edges of windows inside the canvas (`window_seam`), and of where
    the canvas is joined (`wrap_seam`); None where there is no such border.
    """
    masks, (h, w) = np.stack([region.mask for region in regions]), denoise.weights.shape[1:]
    across, down = steps(pictures, 2, circular=circular), steps(pictures, 1)
    border = lambda axis: np.flatnonzero(np.diff(masks.astype(int), axis=axis + 1).any((0, 2 - axis)))
    edges = lambda axis, length: np.array(
        sorted({(corner[axis] + end) % denoise.canvas[axis] for corner in denoise.corners for end in (0, length)} - {0})
    )
    wrap = np.array([denoise.canvas[1] - 1] if circular else [])
    found = {
        "region_seam": [(across, border(1)), (down, border(0))],
        "window_seam": [(across, edges(1, w) - 1), (down, edges(0, h) - 1)],
        "wrap_seam": [(across, wrap)],
    }
    return {name: seam_ratio(sides) for name, sides in found.items()}


def steps(pictures: np.ndarray, axis: int, *, circular: bool = False) -> np.ndarray:
    """Mean absolute difference of neighbours along an axis of pictures (N, H, W, C); entry k is between k and k + 1.

    With `circular` there is one entry more, between the last and the first.
    """
    first = np.take(pictures, [0], axis)
    x = np.concatenate([pictures, first], axis) if circular else pictures
    return np.abs(np.diff(x.astype(np.float64), axis=axis)).mean(tuple({0, 1, 2, 3} - {axis}))


def seam_ratio(sides: Sequence[tuple[np.ndarray, np.ndarray]]) -> float | None:
    """Mean of `steps` at the given places over the mean just before and just behind each.

    What pictures show near a border, such as less ink between two digits, is then on both sides of the fraction.
    """
    at = np.concatenate([step[places.astype(int)] for step, places in sides])
    near = [step[(int(k) + i) % len(step)] for step, places in sides for k in places for i in (-1, 1)]
    return float(at.mean() / np.mean(near)) if len(at) and np.mean(near) > 0 else None
