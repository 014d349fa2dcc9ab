"""Several classes on one canvas: `python -m experiments.compose RUN --layout "7@left,3@right" --canvas 28x44`.

The canvas may be larger than the run's pictures: windows of their size lie over it. See docs/composition.md.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from etils import epath

from experiments import cli, picture_files, pictures
from experiments.composition import layout as canvas
from experiments.composition.composing import draw, plan, seams
from experiments.data import to_pixels
from experiments.errors import UserError
from experiments.loading import load


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(cli.RunArguments):
    """Draw classes by region of a canvas, or several in one place, with a run that was trained on single pictures."""

    layout: str = ""
    """Items CONCEPTS@PLACE, separated by commas: 7@left,3@right or 7+3@0:28,none@rest. Concepts are classes, + for AND
    and - for NOT. Places are all, left, right, top, bottom, center, rest, or boxes x0:x1,y0:y1 in pixels or fractions;
    without any, items stand side by side."""
    canvas: str | None = None
    """HEIGHTxWIDTH in pixels, at least the run's pictures; their size by default."""
    stride: str | None = None
    """DOWNxACROSS, pixels from one window to the next; by default the largest of at most 3/4 of a window that fits."""
    circular: bool = False
    """Join the canvas at its left and right ends: a panorama that wraps around."""
    own: float = 0.75
    """Share of a window that makes it one region's alone; 1 for each place its own region's estimate and no other."""
    negative_scale: float | None = None
    """Guidance scale of what is NOT to be there; that of --guidance-scale by default."""
    corrections: int = 0
    """Langevin steps after each step of the solver: samples of several concepts come nearer to their product."""
    snr: float = 0.1
    """Size of a Langevin step, as a ratio of signal to noise."""
    count: int = 8
    """Canvases."""
    out: str | None = None
    """The picture; steps, an array and figures go beside it. Default: RUN/composed/LAYOUT-seedSEED.png."""


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    arguments = cli.run_arguments(Arguments, "python -m experiments.compose", argv)
    if not arguments.layout:
        raise UserError("say what stands where: --layout 7@left,3@right")
    if arguments.count < 1 or arguments.corrections < 0 or arguments.snr <= 0:
        raise UserError("--count must be at least 1, --corrections not negative, and --snr positive")
    run, sampler = epath.Path(arguments.run), arguments.sampler
    model, params, _ = load(run, step=arguments.step, unfinished=arguments.unfinished)
    picture_files.check(model, "composing")
    window = model.info.shape[0], model.info.shape[1]
    size = window if arguments.canvas is None else canvas.size_of(arguments.canvas, "--canvas")
    if min(size[0] - window[0], size[1] - window[1]) < 0:
        raise UserError(
            f"--canvas must be at least as large as the run's pictures, {window[0]}x{window[1]}, got "
            f"{size[0]}x{size[1]}"
        )
    regions = canvas.parse(arguments.layout, model.info, size)
    if arguments.stride is None:
        around = (False, arguments.circular)
        stride = tuple(_fitting(n, w, joined) for n, w, joined in zip(size, window, around, strict=True))
    else:
        stride = canvas.size_of(arguments.stride, "--stride")
    denoise, evaluations = plan(
        model,
        params,
        regions,
        (stride[0], stride[1]),
        scale=sampler.guidance_scale,
        negative_scale=arguments.negative_scale,
        circular=arguments.circular,
        own=arguments.own,
    )
    composed = draw(
        model,
        denoise,
        evaluations,
        sampler=sampler,
        count=arguments.count,
        seed=arguments.seed,
        corrections=arguments.corrections,
        snr=arguments.snr,
    )
    figures: dict[str, Any] = {
        "layout": arguments.layout,
        "canvas": list(size),
        "stride": list(stride),
        "windows": composed.windows,
        "guidance_scale": sampler.guidance_scale,
        "nfe": composed.nfe,
        "seconds": composed.seconds,
        **seams(composed.samples, denoise, regions, arguments.circular),
    }
    name = f"{re.sub(r'[^A-Za-z0-9.+-]+', '_', arguments.layout)}-seed{arguments.seed}.png"
    out = epath.Path(arguments.out) if arguments.out else run / "composed" / name
    sheet = pictures.grid(to_pixels(composed.samples), max(1, 8 * window[1] // size[1]))
    picture_files.write(out, sheet, composed.path, {"samples": composed.samples}, figures)
    return figures


def _fitting(size: int, window: int, around: bool) -> int:
    """The largest stride of at most 3/4 of a window that divides the room; the window itself where there is none."""
    room = size if around and size > window else size - window
    return next((stride for stride in range(max(3 * window // 4, 1), 0, -1) if room and room % stride == 0), window)


if __name__ == "__main__":
    cli.program(main)
