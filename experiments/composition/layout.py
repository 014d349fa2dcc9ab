"""A layout in words: `7@left, 3@right` as regions of a canvas and the concepts that stand in each.

    layout   = item ("," item)*                items without a place stand side by side, each as wide as the next
    item     = concepts ["@" place]
    concepts = ["-"] class (("+" | "-") class)* | "none"        + is AND, - is NOT; none is the unconditional model
    place    = all | left | right | top | bottom | center | rest | x0:x1[,y0:y1]

Boxes are in pixels, or in fractions of the canvas where a number has a dot; rest is what no other item has.
"""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from experiments.errors import UserError
from experiments.info import DataInfo, class_labels

NONE = "none"
PLACES = ("all", "left", "right", "top", "bottom", "center", "rest")


@dataclasses.dataclass(frozen=True, eq=False)
class Region:
    """One item of a layout.

    Attributes:
        text: as it was written.
        labels, signs: of its concepts; a sign is 1 or -1. Empty for the unconditional model.
        mask: bool (H, W), where it stands.
    """

    text: str
    labels: tuple[int, ...]
    signs: tuple[int, ...]
    mask: np.ndarray


def parse(layout: str, info: DataInfo, canvas: tuple[int, int]) -> tuple[Region, ...]:
    """The regions of a layout on a canvas (H, W); each place of it has exactly one.

    Raises:
        UserError: a class or place that does not exist, regions that overlap or leave places without one, or a run
            without classes.
    """
    items = [item.strip() for item in re.split(r",(?!\s*[\d.]+:[\d.]+\s*(?:,|$))", layout)]
    if not all(items):
        raise UserError(f"--layout {layout!r} has an empty item; write for example 7@left,3@right or 3,1,4")
    written = [tuple(part.strip() for part in item.partition("@")) for item in items]
    placed = [bool(at) for _, at, _ in written]
    if any(placed) and not all(placed):
        raise UserError(f"--layout {layout!r}: give every item a place, as in 7@left,3@right, or none of them")
    told = [concepts(what, info) for what, _, _ in written]
    if not any(placed):
        edges = [round(i * canvas[1] / len(items)) for i in range(len(items) + 1)]
        masks = [_box(canvas, (0, canvas[0]), edges[i : i + 2]) for i in range(len(items))]
    else:
        masks = [None if place == "rest" else _place(place, canvas) for _, _, place in written]
    regions = [
        Region(item, *each, mask) for item, each, mask in zip(items, told, _with_rest(masks, canvas), strict=True)
    ]
    _check(regions, canvas)
    return tuple(regions)


def concepts(text: str, info: DataInfo) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """`(labels, signs)` of `7+3` or `7-1`; a class's name may itself hold + or -.

    Raises:
        UserError: a class that the data do not have, or a run without classes.
    """
    if text == NONE:
        return (), ()
    if not info.classes:
        raise UserError(f"{info.name or 'the data'} has no classes, so all that can stand anywhere is {NONE}")
    names = sorted({*info.classes, *map(str, range(len(info.classes)))}, key=len, reverse=True)
    labels, signs, rest = [], [], text if text[:1] in ("+", "-") else "+" + text
    while rest:
        sign, rest = rest[0], rest[1:].lstrip()
        fits = (name for name in names if re.match(re.escape(name) + r"\s*(?:[+-]|$)", rest))
        name = next(fits, None) or re.split(r"[+-]", rest)[0].strip()
        labels += class_labels(info, (name,))  # raises for what is no class
        signs.append(1 if sign == "+" else -1)
        rest = rest[len(name) :].lstrip()
    return tuple(labels), tuple(signs)


def size_of(text: str, flag: str) -> tuple[int, int]:
    """`28x56` as (28, 56): height, width.

    Raises:
        UserError: something else.
    """
    match = re.fullmatch(r"(\d+)x(\d+)", text.strip())
    if not match or not min(map(int, match.groups())):
        raise UserError(f"{flag} must be HEIGHTxWIDTH in pixels, such as 28x56, got {text!r}")
    return int(match[1]), int(match[2])


def _place(place: str, canvas: tuple[int, int]) -> np.ndarray:
    height, width = canvas
    halves = {
        "all": ((0, height), (0, width)),
        "left": ((0, height), (0, width // 2)),
        "right": ((0, height), (width // 2, width)),
        "top": ((0, height // 2), (0, width)),
        "bottom": ((height // 2, height), (0, width)),
        "center": ((height // 4, height - height // 4), (width // 4, width - width // 4)),
    }
    if place in halves:
        return _box(canvas, *halves[place])
    match = re.fullmatch(r"([\d.]+):([\d.]+)\s*(?:,\s*([\d.]+):([\d.]+))?", place)
    try:
        x0, x1, y0, y1 = (float(number) if number else None for number in match.groups())  # pyright: ignore
    except (AttributeError, ValueError):
        raise UserError(
            f"unknown place {place!r}; use {', '.join(PLACES)}, or a box x0:x1,y0:y1 in pixels or, with dots, fractions"
        ) from None
    y0, y1 = (0.0, 1.0 if "." in place else float(height)) if y0 is None else (y0, y1)
    scale = (width, height) if "." in place else (1, 1)
    (left, right), (top, bottom) = (
        [round(scale[axis] * edge) for edge in edges]  # pyright: ignore
        for axis, edges in enumerate([(x0, x1), (y0, y1)])
    )
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise UserError(
            f"box {place!r} is columns {left} to {right} and rows {top} to {bottom}, which the canvas of {height} x "
            f"{width} does not have; write x0:x1,y0:y1 with x0 < x1 <= {width} and y0 < y1 <= {height}"
        )
    return _box(canvas, (top, bottom), (left, right))


def _box(canvas: tuple[int, int], rows: Sequence[int], columns: Sequence[int]) -> np.ndarray:
    mask = np.zeros(canvas, bool)
    mask[rows[0] : rows[1], columns[0] : columns[1]] = True
    return mask


def _with_rest(masks: Sequence[np.ndarray | None], canvas: tuple[int, int]) -> list[np.ndarray]:
    if sum(mask is None for mask in masks) > 1:
        raise UserError("only one item can have the rest; give the others a box")
    taken = np.zeros(canvas, bool)
    for mask in masks:
        taken |= False if mask is None else mask
    return [~taken if mask is None else mask for mask in masks]


def _check(regions: Sequence[Region], canvas: tuple[int, int]) -> None:
    count = np.sum([region.mask for region in regions], 0)
    for region in regions:
        if not region.mask.any():
            raise UserError(f"{region.text!r} has no place left on the canvas; leave it out, or make room for it")
        for other in regions:
            if other is not region and (both := region.mask & other.mask).any():
                raise UserError(
                    f"{region.text!r} and {other.text!r} overlap in {_where(both)}; give them boxes that do not, or "
                    f"both concepts one box: {region.text.split('@')[0]}+{other.text.split('@')[0]}@..."
                )
    if not count.all():
        raise UserError(
            f"nothing stands in {_where(count == 0)} of the canvas of {canvas[0]} x {canvas[1]}; add an item for it, "
            f"such as {NONE}@rest"
        )


def _where(mask: np.ndarray) -> str:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return f"{columns[0]}:{columns[-1] + 1},{rows[0]}:{rows[-1] + 1} ({int(mask.sum())} pixels)"
