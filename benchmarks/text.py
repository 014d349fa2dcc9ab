"""Quality of texts against network evaluations and tokens a second, for runs on one text and every solver of theirs.

    python -m benchmarks.text runs/mask runs/uniform runs/block1     each a finished run on the same text
    python -m benchmarks.text --redraw                               the table and the plot again, from the JSON

Quality is what an independent judge says: bits a character of the samples under an n-gram model of the training text,
its context begun anew in each sample. Bits fall when samples repeat themselves, so their entropy stands beside them,
and both stand beside held-out text. Every point is compiled and run once before it is timed; times are of whole
batches, blocked on, and a median with quartiles of repeats. A run of blocks keeps keys and values in a cache; steps are
those of all blocks together. Prints a table in Markdown, that of docs/text.md.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import results_file
from benchmarks.progress import Progress
from benchmarks.runs import load
from experiments.bounds import bound
from experiments.model import Model
from experiments.processes import Masked
from experiments.recipe import Sampler
from experiments.text import metrics
from experiments.text.ngrams import NGrams
from experiments.text.windows import spread
from jaxdiff import grids, solvers

JUDGE_ORDER = 5
PLAIN = {"Ancestral": solvers.Ancestral()}
MASKED = PLAIN | {
    "Confidence, probability": solvers.Confidence(),
    "Confidence, margin": solvers.Confidence(score=solvers.scores.margin),
    "ReMDM 0.02": solvers.ReMDM(eta=0.02),
    "ReMDM 0.1": solvers.ReMDM(eta=0.1),
}


def choices(model: Model) -> dict[str, Any]:
    """The solvers that a run's process and network take."""
    if getattr(model.recipe.network, "block", None) or not isinstance(model.recipe.process, Masked):
        return PLAIN
    return MASKED


def steps_of(model: Model, steps: list[int]) -> list[int]:
    """Of the wanted steps, those that divide over the blocks of a network of blocks; at least one a block."""
    block = getattr(model.recipe.network, "block", None)
    if block is None:
        return steps
    count = model.info.shape[0] // block
    return sorted({*(s for s in steps if s % count == 0), count})


def point(model: Model, params: Any, sampler: Sampler, judge: Any, *, samples: int, repeats: int) -> dict[str, Any]:
    """One row: quality of `samples` texts, network evaluations of each, and the time of drawing them."""
    draw = lambda seed: model.draw(params, None, samples, sampler=sampler, seed=seed, batch_size=samples)
    began = time.perf_counter()
    drawn, nfe = draw(0)
    first, seconds = time.perf_counter() - began, []
    for seed in range(1, repeats + 1):
        began = time.perf_counter()
        draw(seed)
        seconds.append(time.perf_counter() - began)
    low, middle, high = np.percentile(seconds, [25, 50, 75])
    return {
        **judge(drawn),
        "nfe": nfe,
        "first_seconds": round(first, 3),
        "seconds": [round(float(s), 4) for s in (low, middle, high)],
        "tokens_per_second": round(drawn.size / float(middle), 1),
    }


def measure(runs: list[str], steps: list[int], samples: int, repeats: int, windows: int, draws: int) -> dict[str, Any]:
    loaded = {Path(run).name: load(run) for run in runs}
    texts: Any = next(iter(loaded.values()))[0].recipe.data.load()
    for name, (model, _, _) in loaded.items():
        if model.info.checksum != texts.checksum:
            raise SystemExit(f"all runs must be of one text and tokenizer; {name} has another than {texts.name}")
    gram = NGrams.fit(texts.train, texts.tokenizer.size, JUDGE_ORDER)
    seen = texts.tokenizer.decode(texts.train)
    per_token = texts.characters_per_token

    def judge(rows: np.ndarray) -> dict[str, float]:
        bits = gram.bits(rows).mean(1) / per_token
        told = metrics.describe([texts.tokenizer.decode(row) for row in rows], seen)
        figures = {"judged_bits": float(bits.mean()), "judged_error": float(bits.std(ddof=1) / np.sqrt(len(bits)))}
        return figures | {name: float(told[name]) for name in ("entropy", "distinct_2", "words")}

    result: dict[str, Any] = {"runs": {}, "points": []}
    total = sum(len(choices(m)) * len(steps_of(m, steps)) + 1 for m, _, _ in loaded.values())
    say = Progress("texts", total)
    for name, (model, params, step) in loaded.items():
        held_out = spread(texts.test, model.info.shape[0], windows)
        nats, error = bound(model, params, held_out, draws=draws, seed=0)
        result["runs"][name] = {
            "process": type(model.recipe.process).__name__,
            "block": getattr(model.recipe.network, "block", None),
            "parameters": int(sum(p.size for p in jax.tree.leaves(params))),
            "steps": step,
            "examples": step * model.recipe.batch_size,
            "length": model.info.shape[0],
            "bits": nats / np.log(2) / per_token,
            "bits_error": error / np.log(2) / per_token,
        }
        say(f"{name}: {result['runs'][name]['bits']:.3f} bits a character")
        for solver, chosen in choices(model).items():
            for count in steps_of(model, steps):
                sampler = Sampler(solver=chosen, grid=grids.uniform, steps=count)
                row = point(model, params, sampler, judge, samples=samples, repeats=repeats)
                result["points"].append({"run": name, "solver": solver, "steps": count, **row})
                say(f"{name}, {solver}, {count} steps: {row['judged_bits']:.3f} bits")
    first = next(iter(loaded.values()))[0]
    result["held-out text"] = judge(spread(texts.test, first.info.shape[0], samples))
    result["about"] = {
        "data": texts.name,
        "judge": f"{JUDGE_ORDER}-gram of the training text",
        "samples": samples,
        "repeats": repeats,
        "windows": windows,
        "draws": draws,
        **results_file.about(),
    }
    return result


def table(result: dict[str, Any]) -> str:
    """Two tables in Markdown: the runs with their bounds, and every point."""
    lines = ["| run | noise | block | examples seen | bits a character |", "|---|---|---|---|---|"]
    for name, run in result["runs"].items():
        bits = f"{run['bits']:.3f} +- {run['bits_error']:.3f}"
        lines.append(f"| {name} | {run['process'].lower()} | {run['block'] or '-'} | {run['examples']:,} | {bits} |")
    lines += ["", "| run | solver | NFE | judged bits | entropy | words | tokens/s |", "|---|---|---|---|---|---|---|"]
    for row in result["points"]:
        bits = f"{row['judged_bits']:.2f} +- {row['judged_error']:.2f}"
        rest = f"{row['entropy']:.2f} | {row['words']:.2f} | {row['tokens_per_second']:,.0f}"
        lines.append(f"| {row['run']} | {row['solver']} | {row['nfe']} | {bits} | {rest} |")
    real = result["held-out text"]
    bits = f"{real['judged_bits']:.2f} +- {real['judged_error']:.2f}"
    lines.append(f"| held-out text | | | {bits} | {real['entropy']:.2f} | {real['words']:.2f} | |")
    return "\n".join(lines)


def plot(result: dict[str, Any], path: Path) -> None:
    """Judged bits against network evaluations, and against tokens a second; a colour a run, a marker a solver."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    curves = dict.fromkeys((row["run"], row["solver"]) for row in result["points"])
    runs, kinds = (list(dict.fromkeys(curve[i] for curve in curves)) for i in (0, 1))
    for run, solver in curves:
        rows = [row for row in result["points"] if (row["run"], row["solver"]) == (run, solver)]
        style = {"marker": "osD^vP"[kinds.index(solver) % 6], "ms": 4, "color": f"C{runs.index(run) % 10}"}
        style |= {"lw": 1, "label": f"{run}, {solver}"}
        bits = [row["judged_bits"] for row in rows]
        left.plot([row["nfe"] for row in rows], bits, **style)
        right.plot([row["tokens_per_second"] for row in rows], bits, **style)
    for axes, label in ((left, "network evaluations"), (right, "tokens a second")):
        axes.axhline(result["held-out text"]["judged_bits"], color="0.6", lw=1, ls="--")
        axes.set(xscale="log", xlabel=label)
    left.set_ylabel("bits a character of samples, by the judge")
    figure.legend(*left.get_legend_handles_labels(), fontsize=7, loc="outside right upper")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", help="finished runs on one text")
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 8, 16, 32, 64, 128], help="%(default)s")
    parser.add_argument("--samples", type=int, default=64, help="texts a point, drawn as one batch; %(default)s")
    parser.add_argument("--repeats", type=int, default=3, help="timed batches a point; %(default)s")
    parser.add_argument("--windows", type=int, default=200, help="held-out windows for the bound; %(default)s")
    parser.add_argument("--draws", type=int, default=32, help="noisy copies of each window; %(default)s")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/text.json"), help="%(default)s")
    parser.add_argument("--plot", type=Path, default=Path("docs/pictures/text.png"), help="%(default)s")
    parser.add_argument("--redraw", action="store_true", help="measure nothing: table and plot from the JSON")
    arguments = parser.parse_args()
    if not arguments.redraw:
        if not arguments.runs:
            parser.error(
                "name at least one finished run, or --redraw; train one: python -m experiments.train text_char"
            )
        if min(arguments.samples - 1, arguments.repeats, arguments.windows, *arguments.steps) < 1:
            parser.error("--samples must be at least 2, the other numbers at least 1")
        options = {name: getattr(arguments, name) for name in ("steps", "samples", "repeats", "windows", "draws")}
        results_file.write(arguments.json, measure(arguments.runs, **options))
    result = json.loads(arguments.json.read_text())
    plot(result, arguments.plot)
    print(table(result))


if __name__ == "__main__":
    main()
