"""Error against calls of the denoiser for every solver: on an exact denoiser, and on a trained model of the digits.

    python -m benchmarks.solvers                        the oracle alone: JAX, NumPy and matplotlib are enough
    python -m benchmarks.solvers --run runs/digits      both; a finished run, its checkpoint is read with Orbax
    python -m benchmarks.solvers --redraw               the tables and the plot again, from the JSON

`benchmarks.solver_errors` says what is measured. What was not measured keeps its place in the JSON. Prints two tables
in Markdown, those of docs/solvers.md.
"""

import argparse
import io
import json
import math
import time
from pathlib import Path
from typing import Any

from benchmarks import results_file
from benchmarks.runs import load
from benchmarks.solver_errors import STOCHASTIC, on_digits, on_the_oracle

Rows = dict[str, list[dict[str, Any]]]


def measured(measure: Any, *arguments: Any) -> dict[str, Any]:
    """A measurement with what it was made on."""
    wall, processor = time.perf_counter(), time.process_time()
    result = measure(*arguments)
    result["about"] |= {
        "seconds": round(time.perf_counter() - wall),
        "processor_seconds": round(time.process_time() - processor),
        **results_file.about(),
    }
    return result


def table(part: dict[str, Any], keys: tuple[str, ...]) -> str:
    """A row for each solver: errors and grids at each budget; sorted by those of the smallest budget."""
    rows: Rows = {name: row for name, row in part["solvers"].items() if "budget" in row[0]}
    budgets = sorted({point["budget"] for row in rows.values() for point in row})
    lines = ["| solver | " + " | ".join(f"{key} {b}" for key in keys for b in budgets) + " | grid |"]
    lines.append("|---|" + "---|" * (len(keys) * len(budgets) + 1))
    cell = lambda point, key: f"{point[key]:#.3g}".rstrip(".") if key in point else ""
    for name, row in sorted(rows.items(), key=lambda item: [item[1][0].get(key, math.inf) for key in keys]):
        at = {point["budget"]: point for point in row}
        cells = [cell(at.get(b, {}), key) for key in keys for b in budgets]
        used = [at[b]["grid"] if b in at else "-" for b in budgets]
        used = used[:1] if len(set(used)) == 1 else used
        lines.append(f"| `{name}` | " + " | ".join([*cells, ", ".join(used)]) + " |")
    for point in part["solvers"]["Adaptive"]:
        errors = ", ".join(f"{key} {cell(point, key)}" for key in keys)
        lines.append(f"Adaptive, tolerance {point['tolerance']}: {point['nfe']} calls, {errors}")
    return "\n".join(lines)


def apart(heights: list[float], gap: float) -> list[float]:
    """Places for labels near `heights`, in the same order and no closer than `gap`."""
    order = sorted(range(len(heights)), key=heights.__getitem__)
    groups: list[list[int]] = []
    centre = lambda group: sum(heights[i] for i in group) / len(group)
    for i in order:
        groups.append([i])
        while len(groups) > 1 and centre(groups[-1]) - centre(groups[-2]) < gap * len(groups[-2] + groups[-1]) / 2:
            last = groups.pop()
            groups[-1] += last
    places = dict.fromkeys(order, 0.0)
    for group in groups:
        places |= {i: centre(group) + gap * (k - (len(group) - 1) / 2) for k, i in enumerate(group)}
    return [places[i] for i in range(len(heights))]


def panel(axes: Any, rows: Rows, key: str, labelled: list[str], colours: Any) -> None:
    """A line for each solver; a label at the end of each of `labelled`, the others in grey."""
    for name in sorted(rows, key=lambda name: name in labelled):
        points = [(p["nfe"], p[key]) for p in rows[name] if key in p]
        if not points:
            continue
        x, y = zip(*sorted(points), strict=True)
        if name in labelled:
            i = labelled.index(name)
            style = {"color": colours[i % len(colours)], "ls": "-" if i < len(colours) else "--", "lw": 1.6}
            axes.plot(x, y, marker="osD^v"[i % 5], ms=4, zorder=3, **style)
        else:
            axes.plot(x, y, color="0.8")
    axes.set(xscale="log", yscale="log", xlabel="calls of the denoiser for one sample (NFE)")
    low, high = (math.log(limit) for limit in axes.get_ylim())
    ends = [max((p["nfe"], p[key]) for p in rows[name]) for name in labelled]
    spots = apart([(math.log(y) - low) / (high - low) for _, y in ends], 0.042)
    for i, (name, (x, y), spot) in enumerate(zip(labelled, ends, spots, strict=True)):
        at = {"xy": (x, y), "xycoords": "data", "xytext": (1.04, spot), "textcoords": "axes fraction", "va": "center"}
        line = {"arrowstyle": "-", "color": "0.7", "lw": 0.6}
        short = name.replace("DPMpp2S()", "2S").replace("inner=", "")
        axes.annotate(short, color=colours[i % len(colours)], fontsize=8, arrowprops=line, **at)
    ticks = [5, 10, 20, 50, 100]
    axes.set_xticks(ticks, map(str, ticks))
    axes.set_xticks([], minor=True)
    axes.grid(which="major", color="0.92")
    axes.spines[["top", "right"]].set_visible(False)


def plot(part: dict[str, Any], path: Path) -> None:
    """Both errors on the oracle, side by side."""
    from matplotlib.figure import Figure
    from PIL import Image  # matplotlib brings it

    rows, about = part["solvers"], part["about"]
    colours = [f"C{i}" for i in range(10) if i != 7]  # matplotlib's, without the grey
    figure = Figure(figsize=(13, 5.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    panel(left, rows, "rms", [name for name in rows if name not in STOCHASTIC], colours)
    left.set_title("deterministic: RMS distance to the exact solution from the same noise", loc="left", fontsize=10)
    panel(right, rows, "law", [name for name in rows if name in STOCHASTIC], colours)
    right.set_title("all: sliced Wasserstein distance to data", loc="left", fontsize=10)
    right.axhspan(*part["floor"], color="tab:green", alpha=0.15, lw=0)
    right.axhline(about["law_of_the_exact_ode"], color="0.4", ls=":", lw=1)
    notes = {"green: two sets of data": "tab:green", "dotted: the exact solution from this noise": "0.4"}
    for i, (note, colour) in enumerate({"grey: the deterministic solvers": "0.6", **notes}.items()):
        right.text(
            0.98, 0.98 - 0.04 * i, note, ha="right", va="top", fontsize=8, color=colour, transform=right.transAxes
        )
    figure.suptitle(f"{about['data']}; {about['count']:,} samples; each solver on its best grid", fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=110)
    Image.open(picture).convert("RGB").quantize(64).save(path, "PNG", optimize=True)


def rounded(value: Any) -> Any:
    """Numbers to four digits: what is left of them is noise."""
    if isinstance(value, dict):
        return {key: rounded(v) for key, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="directory of a finished run on the digits; none: the oracle alone")
    parser.add_argument("--redraw", action="store_true", help="measure nothing")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/solvers.json"), help="%(default)s")
    parser.add_argument("--plot", type=Path, default=Path("docs/pictures/solvers.png"), help="%(default)s")
    arguments = parser.parse_args()
    parts = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
    if not arguments.redraw:
        loaded = load(arguments.run) if arguments.run else None
        parts["oracle"] = rounded(measured(on_the_oracle))
        if loaded:
            parts["digits"] = rounded(measured(on_digits, loaded))
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(parts, separators=(",", ":")).replace('},{"', '},\n{"') + "\n")
    for name, part in parts.items():
        print(
            f"\n{name}: {part['about']}\n"
            + table(part, ("median", "rms", "law") if name == "digits" else ("rms", "law"))
        )
    plot(parts["oracle"], arguments.plot)


if __name__ == "__main__":
    main()
