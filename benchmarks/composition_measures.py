"""What `benchmarks.composition` measures of canvases, panoramas and edits, by a judge of single digits.

The seam is the mean step between neighbouring columns at the border, over that just before and just behind it (`seam`),
over that of all others (`elsewhere`), and over that of real digits at the same places (`over_real`).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.composition import composing
from experiments.composition import layout as canvas
from experiments.composition.layout import Region
from experiments.data import from_pixels, to_pixels
from experiments.editing import edit
from experiments.judge import Judge
from experiments.model import Model
from experiments.recipe import Sampler
from jaxdiff import grids, solvers

STRENGTHS = (0.6, 0.75, 0.9)


def wilson(hits: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927)."""
    share = hits / count
    middle, spread = share + z**2 / (2 * count), z * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return float((middle - spread) / (1 + z**2 / count)), float((middle + spread) / (1 + z**2 / count))


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all measurements share."""

    model: Model
    params: Any
    judge: Judge
    test: tuple[np.ndarray, np.ndarray]
    sampler: Sampler
    scale: float
    each: int

    @property
    def pairs(self) -> list[tuple[int, int]]:
        classes = range(len(self.model.info.classes))
        return [(a, b) for a in classes for b in classes if a != b]

    def canvases(
        self, width: int, layout: Callable[..., Any], *, own: float, scale: float, seed: int = 0
    ) -> tuple[np.ndarray, int]:
        """Canvases of all pairs, (pairs * each, H, W, C), and network evaluations of one."""
        height, window, _ = self.model.info.shape
        stride = (height, max(width - window, 1))
        drawn, nfe = [], 0
        for number, pair in enumerate(self.pairs):
            regions = layout(pair, (height, width))
            denoise, calls = composing.plan(self.model, self.params, regions, stride, scale=scale, own=own)
            own_seed = seed * len(self.pairs) + number
            done = composing.draw(self.model, denoise, calls, sampler=self.sampler, count=self.each, seed=own_seed)
            drawn.append(done.samples)
            nfe = done.nfe
        return np.concatenate(drawn), nfe


def side_by_side(pair: tuple[int, int], size: tuple[int, int]) -> tuple[Region, ...]:
    left = np.arange(size[1])[None].repeat(size[0], 0) < size[1] // 2
    return tuple(Region(str(k), (k,), (1,), mask) for k, mask in zip(pair, (left, ~left), strict=True))


def both_everywhere(pair: tuple[int, int], size: tuple[int, int]) -> tuple[Region, ...]:
    return (Region("+".join(map(str, pair)), pair, (1, 1), np.ones(size, bool)),)


def one_picture(k: int, size: tuple[int, int]) -> tuple[Region, ...]:
    return (Region(str(k), (k,), (1,), np.ones(size, bool)),)


def cut(left: np.ndarray, right: np.ndarray, width: int) -> np.ndarray:
    """Pictures (N, H, w, C) at both ends of a canvas, each up to its middle."""
    half = width // 2
    return np.concatenate([left[:, :, :half], right[:, :, left.shape[2] - (width - half) :]], 2)


def overlaid(left: np.ndarray, right: np.ndarray, width: int) -> np.ndarray:
    """Pictures at both ends of a canvas, the brighter where they overlap."""
    room = np.full((*left.shape[:2], width - left.shape[2], left.shape[3]), -1, left.dtype)
    return np.maximum(np.concatenate([left, room], 2), np.concatenate([room, right], 2))


def real_pairs(setting: Setting) -> tuple[np.ndarray, np.ndarray]:
    """Test pictures of the left and of the right classes, `each` of a pair."""
    rng, (images, labels) = np.random.default_rng(0), setting.test
    of = lambda i: [k for pair in setting.pairs for k in [pair[i]] * setting.each]
    left, right = ([rng.choice(np.flatnonzero(labels == k)) for k in of(i)] for i in range(2))
    return from_pixels(images[left]), from_pixels(images[right])


def judged(setting: Setting, drawn: np.ndarray, real: np.ndarray) -> dict[str, Any]:
    """Recognition and seams of canvases of all pairs."""
    window, pairs = setting.model.info.shape[1], np.repeat(setting.pairs, setting.each, 0)
    pixels = to_pixels(drawn)
    named = [
        setting.judge.predict(np.ascontiguousarray(part)) for part in (pixels[:, :, :window], pixels[:, :, -window:])
    ]
    right = np.stack([found == pairs[:, i] for i, found in enumerate(named)])
    border = np.array([drawn.shape[2] // 2 - 1])
    steps, of_real = (composing.steps(np.clip(x, -1, 1), 2) for x in (drawn, real))
    hits = int(right.all(0).sum())
    return {
        "count": len(drawn),
        "both": hits / len(drawn),
        "interval": wilson(hits, len(drawn)),
        "left": float(right[0].mean()),
        "right": float(right[1].mean()),
        "seam": composing.seam_ratio([(steps, border)]),
        "elsewhere": float(steps[border].mean() / np.delete(steps, border).mean()),
        "over_real": float(steps[border].mean() / of_real[border].mean()),
    }


def panorama(setting: Setting, count: int, shown: dict[str, Any]) -> dict[str, Any]:
    """Three digits around a circle: the step where it is joined, over the steps at the other two borders.

    By the symmetry of the circle these are alike if nothing shows that there is a join.
    """
    height, window, _ = setting.model.info.shape
    width = 3 * (5 * window // 7)
    rng, chosen = np.random.default_rng(1), np.arange(3)
    drawn: list[np.ndarray] = []
    classes = len(setting.model.info.classes)
    hits = total = 0
    for number in range(count // setting.each):
        if number % 3 == 0:
            chosen = rng.choice(classes, 3, replace=False)
        items = np.roll(chosen, number % 3)  # each border sees each pair of neighbours
        regions = canvas.parse(",".join(map(str, items)), setting.model.info, (height, width))
        denoise, calls = composing.plan(
            setting.model, setting.params, regions, (height, width // 3), scale=setting.scale, circular=True
        )
        done = composing.draw(setting.model, denoise, calls, sampler=setting.sampler, count=setting.each, seed=number)
        drawn.append(done.samples)
        centred = np.roll(to_pixels(done.samples), (window - width // 3) // 2, 2)
        for i, item in enumerate(items):
            first = i * width // 3
            part = np.take(centred, np.arange(first, first + window) % width, 2)
            hits, total = hits + int((setting.judge.predict(part) == item).sum()), total + len(part)
    x = np.concatenate(drawn)
    steps = composing.steps(np.clip(x, -1, 1), 2, circular=True)
    others = [width // 3 - 1, 2 * width // 3 - 1]
    shown["panorama of three, joined at its ends, twice around"] = np.concatenate([x[:: setting.each][:3]] * 2, 2)
    return {
        "count": len(x),
        "width": width,
        "wrap_seam": composing.seam_ratio([(steps, np.array([width - 1]))]),
        "wrap_over_other_borders": float(steps[-1] / steps[others].mean()),
        "other_borders": [float(steps[k] / steps[[*others, -1]].mean()) for k in others],
        "recognised": hits / total,
        "interval": wilson(hits, total),
    }


def edited(setting: Setting, count: int, shown: dict[str, Any]) -> list[dict[str, Any]]:
    """Test digits redrawn as the next class: how many are recognised as that, and how much of the picture is left."""
    images, labels = (part[:count] for part in setting.test)
    pictures, target = from_pixels(images), (labels + 1) % len(setting.model.info.classes)
    sampler = dataclasses.replace(setting.sampler, guidance_scale=setting.scale)
    rows = []
    shown["test digits"] = pictures[:6]
    for method, solver in (("sdedit", solvers.Ancestral()), ("inversion", solvers.DDIM())):
        chosen = dataclasses.replace(sampler, solver=solver, grid=grids.uniform, steps=20)
        for strength in STRENGTHS:
            done = edit(
                setting.model,
                setting.params,
                pictures,
                method=method,
                strength=strength,
                sampler=chosen,
                source=labels,
                target=target,
                count=len(pictures),
            )
            named = setting.judge.predict(to_pixels(done.samples))
            hits = int((named == target).sum())
            rows.append(
                {
                    "method": method,
                    "strength": strength,
                    "nfe": done.nfe,
                    "count": len(pictures),
                    "recognised": hits / len(pictures),
                    "interval": wilson(hits, len(pictures)),
                    "still_the_old_class": float((named == labels).mean()),
                    "change": float(np.sqrt(((np.clip(done.samples, -1, 1) - pictures) ** 2).mean())),
                }
            )
            shown[f"{method} {strength:g}, one class up"] = done.samples[:6]
    return rows
