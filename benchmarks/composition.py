"""Two digits on one canvas, panoramas and edits with a run on single digits, judged by a classifier of real ones.

    python -m benchmarks.composition RUN         measures; the run is on MNIST, its test split is needed
    python -m benchmarks.composition --redraw    the tables again, from the JSON

Every ordered pair of different classes, `--each` canvases a pair. The judge sees a window's width at the left and at
the right end of a canvas and must name both classes. Methods: windows that are told of their own region, estimates of
both classes cut at the border in each step, the mean of both classes' scores everywhere, and two independent samples
cut in the middle; beside them real test digits at the same places, the brighter of both where they overlap. What a seam
is: `benchmarks.composition_measures`. Prints tables in Markdown, those of docs/composition.md, and draws its picture.
"""

import argparse
import dataclasses
import io
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import results_file
from benchmarks.composition_measures import (
    Setting,
    both_everywhere,
    cut,
    edited,
    judged,
    one_picture,
    overlaid,
    panorama,
    real_pairs,
    side_by_side,
)
from benchmarks.progress import Progress
from benchmarks.runs import load
from experiments.judge import train_judge

OURS, HARD = "windows of their own region", "estimates cut at the border"
SUM, PASTE, REAL = "mean of both scores everywhere", "two samples, cut", "real digits, overlaid"
SHOWN = ((7, 3), (2, 5), (4, 0), (9, 8), (1, 6), (5, 7))


def canvases(setting: Setting, widths: list[int], shown: dict[str, np.ndarray], say: Progress) -> list[dict[str, Any]]:
    """A row for each width and method."""
    rows, window = [], setting.model.info.shape[1]
    alone = lambda i: setting.canvases(
        window, lambda pair, size: one_picture(pair[i], size), own=1.0, scale=setting.scale, seed=1 + i
    )
    (left, nfe), (right, _) = alone(0), alone(1)
    say("single pictures")
    real_left, real_right = real_pairs(setting)
    for width in widths:
        began = time.perf_counter()
        sets = {OURS: setting.canvases(width, side_by_side, own=0.75, scale=setting.scale)}
        seconds = time.perf_counter() - began
        say(f"{width} columns, {OURS}")
        sets[HARD] = setting.canvases(width, side_by_side, own=1.0, scale=setting.scale)
        say(f"{width} columns, {HARD}")
        if width == widths[0]:
            sets[SUM] = setting.canvases(width, both_everywhere, own=1.0, scale=setting.scale / 2)
            say(f"{width} columns, {SUM}")
        real = overlaid(real_left, real_right, width)
        sets |= {PASTE: (cut(left, right, width), 2 * nfe), REAL: (real, 0)}
        for name, (drawn, evaluations) in sets.items():
            about = {"height": drawn.shape[1], "width": width, "method": name, "nfe": evaluations}
            rows.append({**about, **judged(setting, drawn, real)})
            if width == widths[0]:
                shown[name] = drawn[[setting.pairs.index(pair) * setting.each for pair in SHOWN]]
        rows[-len(sets)]["seconds_a_canvas"] = round(seconds / len(real), 3)
    return rows


def measure(
    setting: Setting, widths: list[int], panoramas: int, edits: int
) -> Iterator[tuple[dict[str, Any], dict[str, np.ndarray]]]:
    """The figures so far, part by part, and pictures to show: name -> (N, H, W, C) in [-1, 1]."""
    say, shown, figures = Progress("composition", 2 * len(widths) + 4), {}, {}
    figures["canvases"] = canvases(setting, widths, shown, say)
    yield figures, shown
    figures["panorama"] = panorama(setting, panoramas, shown)
    say("panoramas")
    yield figures, shown
    figures["edits"] = edited(setting, edits, shown)
    say("edits")
    yield figures, shown


def tables(result: dict[str, Any]) -> str:
    """Markdown: canvases, then edits."""
    lines = [
        "| canvas | method | NFE | both recognised (95 %) | left, right | seam: beside, elsewhere, over real |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["canvases"]:
        low, high = row["interval"]
        seam = ", ".join("-" if row[k] is None else f"{row[k]:.2f}" for k in ("seam", "elsewhere", "over_real"))
        named = f"{row['both']:.3f} ({low:.3f} to {high:.3f}) | {row['left']:.3f}, {row['right']:.3f}"
        lines.append(f"| {row['height']} x {row['width']} | {row['method']} | {row['nfe'] or '-'} | {named} | {seam} |")
    lines += ["", "| method | strength | NFE | recognised as the new class (95 %) | as the old one | change |"]
    lines.append("|---|---|---|---|---|---|")
    for row in result["edits"]:
        low, high = row["interval"]
        named = f"{row['recognised']:.3f} ({low:.3f} to {high:.3f}) | {row['still_the_old_class']:.3f}"
        lines.append(f"| {row['method']} | {row['strength']} | {row['nfe']} | {named} | {row['change']:.2f} |")
    return "\n".join(lines) + f"\n\npanorama: {json.dumps(result['panorama'])}"


def draw(shown: dict[str, np.ndarray]) -> bytes:
    """One row a method: canvases at the left, edits at the right."""
    from matplotlib.figure import Figure

    narrow = min(pictures.shape[2] for pictures in shown.values())
    sides = [[name for name in shown if (shown[name].shape[2] > narrow) is wide] for wide in (True, False)]
    figure = Figure(figsize=(9.5, 0.66 * max(map(len, sides))), layout="constrained")
    axes = figure.subplots(max(map(len, sides)), 2, squeeze=False, width_ratios=(7, 3))
    for axis in axes.flat:
        axis.axis("off")
        axis.set_anchor("W")
    for axis, name in ((axes[i, side], name) for side, names in enumerate(sides) for i, name in enumerate(names)):
        pictures = shown[name]
        gap = np.full((pictures.shape[1], 2, 1), 1, np.float32)
        row = np.concatenate([part for picture in pictures for part in (picture, gap)], 1)[:, :-2, 0]
        axis.imshow(row, cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
        axis.set_title(name, fontsize=7, loc="left", pad=2)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", help="a finished run on MNIST")
    parser.add_argument("--each", type=int, default=6, help="canvases for each of the 90 pairs; %(default)s")
    parser.add_argument("--widths", type=int, nargs="+", default=[44], help="the first with all methods")
    parser.add_argument("--panoramas", type=int, default=126, help="%(default)s")
    parser.add_argument("--edits", type=int, default=100, help="%(default)s")
    parser.add_argument("--steps", type=int, default=12, help="of the run's solver; %(default)s")
    parser.add_argument("--scale", type=float, default=2.0, help="of guidance; %(default)s")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/composition.json"), help="%(default)s")
    parser.add_argument("--picture", type=Path, default=Path("docs/pictures/composition.png"), help="%(default)s")
    parser.add_argument("--redraw", action="store_true", help="measure nothing: the tables from the JSON")
    arguments = parser.parse_args()
    if not arguments.redraw:
        if arguments.run is None:
            parser.error("a run directory is needed, or --redraw")
        model, params, step = load(arguments.run)
        data: Any = model.recipe.data
        images = data.load()
        train, test = ((np.asarray(split.images[:]), np.asarray(split.labels)) for split in (images.train, images.test))
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "jaxdiff" / "judges"
        judge = train_judge(*train, len(images.classes), seed=0, cache_dir=cache)
        sampler = dataclasses.replace(model.recipe.sampler, steps=arguments.steps)
        setting = Setting(model, params, judge, test, sampler, arguments.scale, arguments.each)
        about = {
            "data": images.name,
            "checkpoint": step,
            "solver": type(sampler.solver).__name__,
            "steps": sampler.steps,
            "guidance_scale": arguments.scale,
            "judge_accuracy": judge.accuracy(*test),
            **results_file.about(),
        }
        for figures, shown in measure(setting, arguments.widths, arguments.panoramas, arguments.edits):
            results_file.write(arguments.json, {"about": about, **figures})
            arguments.picture.write_bytes(draw(shown))
    print(tables(json.loads(arguments.json.read_text())))


if __name__ == "__main__":
    main()
