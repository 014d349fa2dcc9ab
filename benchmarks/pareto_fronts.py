"""Fronts of error against evaluations: points that no other beats, what a side needs for an error, tables, the plot."""

import io
import itertools
import math
import statistics
from typing import Any

import numpy as np

BUDGETS = (4, 5, 6, 8, 10, 12, 16, 20, 26, 32, 40, 50, 64, 80, 100)
Point = dict[str, Any]


def front(points: list[Point]) -> list[Point]:
    """Those that no other beats in both, by NFE."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p["nfe"], p["error"])):
        if np.isfinite(point["error"]) and (not best or point["error"] < best[-1]["error"]):
            best.append(point)
    return best


def best_grids(points: list[Point]) -> list[Point]:
    """Of each solver the best grid at each number of evaluations, and whatever was timed."""
    best: dict[Any, Point] = {}
    for point in points:
        key = (point["solver"], point["nfe"])
        if np.isfinite(point["error"]) and (key not in best or point["error"] < best[key]["error"]):
            best[key] = point
    return list(best.values())


def needed(points: list[Point], error: float) -> float:
    """NFE at which a front reaches an error, between two of its points linear in log-log; infinite beyond its end."""
    best = front(points)
    if error >= best[0]["error"]:
        return best[0]["nfe"]
    for left, right in itertools.pairwise(best):
        if right["error"] <= error:
            share = math.log(left["error"] / error) / math.log(left["error"] / right["error"])
            return left["nfe"] * (right["nfe"] / left["nfe"]) ** share
    return math.inf


def best_within(points: list[Point]) -> dict[int, Point]:
    """The point of least error within each budget that any fits."""
    fits = {budget: [p for p in points if p["nfe"] <= budget and np.isfinite(p["error"])] for budget in BUDGETS}
    return {budget: min(found, key=lambda p: p["error"]) for budget, found in fits.items() if found}


def compare(mine: list[Point], other: list[Point]) -> list[dict[str, Any]]:
    """At each budget the other side's best, and what share of its evaluations ours needs for the same error."""
    rows, (ours, theirs) = [], (best_within(side) for side in (mine, other))
    for budget in BUDGETS:
        if budget in ours and budget in theirs:
            ratio = needed(mine, theirs[budget]["error"]) / theirs[budget]["nfe"]
            rows.append({"budget": budget, "ours": ours[budget], "theirs": theirs[budget], "ratio": ratio})
    return rows


def summary(cases: dict[str, Any]) -> list[dict[str, Any]]:
    """Over the mixtures: the ratio of evaluations at equal error, at each budget; below 1 ours needs fewer."""
    mixtures = [case["compared"] for name, case in cases.items() if name.startswith("mixture")]
    rows = []
    for budget in BUDGETS:
        ratios = sorted(row["ratio"] for rows_of in mixtures for row in rows_of if row["budget"] == budget)
        if ratios:
            rows.append({"budget": budget, "median": statistics.median(ratios), "low": ratios[0], "high": ratios[-1]})
    return rows


def table(result: dict[str, Any]) -> str:
    """Markdown: the summary, then each case's best at each budget; without a peer ours alone."""
    lines = []
    if result["summary"]:
        lines += ["| evaluations | ours / theirs at equal error, median over mixtures | range |", "|---|---|---|"]
    lines += [f"| {r['budget']} | {r['median']:.2f} | {r['low']:.2f} to {r['high']:.2f} |" for r in result["summary"]]
    for name, found in result["cases"].items():
        lines += ["", f"{name}, two fine solutions differ by {found['floor']:.1e}", ""]
        if "compared" not in found:
            lines += ["| evaluations | best | error |", "|---|---|---|"]
            lines += [f"| {budget} | {_cells(best)} |" for budget, best in best_within(found["jaxdiff"]).items()]
            continue
        lines += ["| evaluations | ours | error | diffusers | error | ratio |", "|---|---|---|---|---|---|"]
        for row in found["compared"]:
            lines.append(f"| {row['budget']} | {_cells(row['ours'])} | {_cells(row['theirs'])} | {row['ratio']:.2f} |")
        worst = max(found["pairs"].items(), key=lambda item: item[1])
        lines += ["", f"the same solver on the same grid: at most {worst[1]:.1e} apart ({worst[0]})"]
    return "\n".join(lines)


def _cells(point: Point) -> str:
    return f"{point['solver']}, {point['grid']} | {point['error']:.2e}"


def plot(result: dict[str, Any]) -> bytes:
    """A panel for each case: all points of both sides, and both fronts; what was timed also over its seconds."""
    from matplotlib.figure import Figure

    cases = result["cases"]
    panels = [(name, "nfe", "network evaluations") for name in cases]
    panels += [(name, "seconds", "seconds") for name in cases if "seconds" in front(cases[name]["jaxdiff"])[0]]
    rows, columns = math.ceil(len(panels) / 3), min(len(panels), 3)
    figure = Figure(figsize=(3.6 * columns, 3.2 * rows), layout="constrained")
    axes_of = list(figure.subplots(rows, columns, squeeze=False).flat)
    lowest = min(p["error"] for case in cases.values() for side in ("jaxdiff", "diffusers") for p in case.get(side, []))
    for axes, (name, key, label) in zip(axes_of, panels, strict=False):
        for side, colour in (("diffusers", "C1"), ("jaxdiff", "C0")):
            points = cases[name].get(side, [])
            if key == "nfe":
                axes.plot([p["nfe"] for p in points], [p["error"] for p in points], ".", ms=2, color=colour, alpha=0.3)
            best = front(points) if points else []
            axes.plot([p[key] for p in best], [p["error"] for p in best], "-o", ms=3, color=colour, label=side)
        axes.set(xscale="log", yscale="log", title=name, xlabel=label, ylim=(lowest / 2, 3))
        axes.grid(color="0.92")
    for axes in axes_of[len(panels) :]:
        axes.set_axis_off()
    figure.axes[0].legend()
    figure.axes[0].set_ylabel("error")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
