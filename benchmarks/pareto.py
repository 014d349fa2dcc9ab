"""Error against network evaluations for every solver x grid, ours and diffusers': who needs fewer at equal error?

    python -m benchmarks.pareto                       five mixtures of Gaussians with their exact denoisers
    python -m benchmarks.pareto --run runs/digits     also the network of a finished run
    python -m benchmarks.pareto --redraw              the tables and the plot again, from the JSON

Everything starts from the same noise at t = 1 of DDPM's table of 1000 betas, which diffusers cannot leave, and is
compared with the solution of the ODE from there. Error: root mean square distance of the mixtures' samples, median
distance of the network's, in standard deviations of the data. The mixtures are drawn from the seeds 0 to 4, and nothing
was tuned on them: grids come with their defaults, `grids.optimized`, which asks the denoiser, is left out. At each
budget a side's best is its smallest error over all that fits, and how many evaluations the other side needs for the
same error is read off its front, linear between points in log-log.
"""

import argparse
import datetime
import io
import itertools
import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.progress import Progress
from benchmarks.solver_errors import DETERMINISTIC, steps_within
from benchmarks.subjects import process
from experiments.hardware import describe_devices, versions
from jaxdiff import grids, guidance, oracles, sample, solvers

BUDGETS = (4, 5, 6, 8, 10, 12, 16, 20, 26, 32, 40, 50, 64, 80, 100)
SEEDS, COUNT, DIMENSIONS, COMPONENTS = (0, 1, 2, 3, 4), 256, 8, 5
SOLVERS = {name: solver for name, solver in DETERMINISTIC.items() if name != "Euler"}  # which is DDIM here
GRIDS: dict[str, Callable[..., Any]] = {
    name: getattr(grids, name) for name in ("karras", "logsnr", "uniform", "quadratic", "beta", "trailing", "linspace")
}
run = jax.jit(sample, static_argnames="spec", compiler_options={"xla_backend_optimization_level": 1})
Point = dict[str, Any]


def mixture(seed: int) -> oracles.GaussianMixture:
    """Of `COMPONENTS` in `DIMENSIONS`, of about unit variance, components about a third as wide as the whole."""
    rng = np.random.default_rng(seed)
    means = rng.standard_normal((COMPONENTS, DIMENSIONS))
    factors = rng.standard_normal((COMPONENTS, DIMENSIONS, DIMENSIONS)) / math.sqrt(DIMENSIONS)
    covariances = 0.1 * factors @ factors.transpose(0, 2, 1) + 0.01 * np.eye(DIMENSIONS)
    return oracles.GaussianMixture(
        weights=rng.dirichlet(np.full(COMPONENTS, 5.0)), means=means, covariances=covariances
    )


def tables() -> dict[str, jax.Array]:
    """Of each grid a table whose row n - 1 is that of n steps, all of one length: a solver is compiled once."""
    schedule, most = process().schedule, max(BUDGETS)
    table = lambda make: jax.vmap(lambda n: make(schedule, n, length=most))(jnp.arange(1, most + 1))
    return {name: jax.jit(table, static_argnums=0)(make) for name, make in GRIDS.items()}


def ours(denoise: Any, x: jax.Array, error: Callable[[Any], float], say: Progress) -> list[Point]:
    """A point for each solver, grid and budget."""
    found, all_times = [], tables()
    for name, solver in SOLVERS.items():
        for (grid, table), budget in itertools.product(all_times.items(), BUDGETS):
            if steps := steps_within(solver, budget, table):
                out, info = run(jax.random.key(0), process(), denoise, solver, table[steps - 1], x=x)
                found.append({"solver": name, "grid": grid, "nfe": int(info.nfe), "error": error(out)})
        say(name)
    return found


def front(points: list[Point]) -> list[Point]:
    """Those that no other beats in both, by NFE."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p["nfe"], p["error"])):
        if np.isfinite(point["error"]) and (not best or point["error"] < best[-1]["error"]):
            best.append(point)
    return best


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


def compare(mine: list[Point], other: list[Point]) -> list[dict[str, Any]]:
    """At each budget the other side's best, and what share of its evaluations ours needs for the same error."""
    rows = []
    for budget in BUDGETS:
        within = [[p for p in side if p["nfe"] <= budget and np.isfinite(p["error"])] for side in (mine, other)]
        if all(within):
            first, second = (min(points, key=lambda p: p["error"]) for points in within)
            ratio = needed(mine, second["error"]) / second["nfe"]
            rows.append({"budget": budget, "ours": first, "theirs": second, "ratio": ratio})
    return rows


def case(
    denoise: Any, shape: tuple[int, ...], distance: Callable[[Any, Any], float], name: str, peer: bool
) -> dict[str, Any]:
    """One denoiser `(x, t, cond) -> x0` on DDPM's table."""
    say = Progress(name, len(SOLVERS) + 1 + peer)
    x = jax.random.normal(jax.random.key(1), (COUNT, *shape))
    fine = grids.logsnr(process().schedule, 500)
    solve = lambda solver: np.asarray(run(jax.random.key(0), process(), denoise, solver, fine, x=x)[0])
    exact = solve(solvers.DPMpp3M(start=solvers.DPMpp2S()))
    error = lambda out: distance(np.asarray(out), exact)
    say("the exact solution")
    result: dict[str, Any] = {"floor": error(solve(solvers.UniPC(p=3))), "jaxdiff": ours(denoise, x, error, say)}
    if peer:
        from benchmarks import pareto_peers

        result["diffusers"] = pareto_peers.points(denoise, np.asarray(x), error, BUDGETS)
        result["pairs"] = pareto_peers.pairs(denoise, np.asarray(x))
        say("diffusers")
        result["compared"] = compare(result["jaxdiff"], result["diffusers"])
    return result


def rms(x: np.ndarray, exact: np.ndarray) -> float:
    return float(np.sqrt(((x - exact) ** 2).mean()))


def typical(x: np.ndarray, exact: np.ndarray) -> float:
    return float(np.median(np.sqrt(((x - exact) ** 2).reshape(len(x), -1).mean(1))))


def of_run(directory: str) -> tuple[Any, tuple[int, ...]]:
    """The denoiser of a finished run at the table's noise levels, and the shape of its data."""
    from experiments.loading import load  # Orbax and the data's own packages

    model, params, _ = load(directory)
    denoise = model.denoiser(jax.tree.map(jnp.asarray, params))
    classes = len(model.info.classes)
    told = guidance.condition(denoise, jnp.arange(COUNT) % classes) if classes else denoise
    return jax.tree_util.Partial(_at_the_same_noise, model.process.schedule, told), model.info.shape


def _at_the_same_noise(schedule: Any, denoise: Any, x: jax.Array, t: Any, cond: Any = None) -> jax.Array:
    """A denoiser of another schedule that keeps the variance, at the time of the same log-SNR."""
    alpha, sigma = process().schedule(t)
    return denoise(x, schedule.inverse(2 * (jnp.log(alpha) - jnp.log(sigma))))


def summary(cases: dict[str, Any]) -> list[dict[str, Any]]:
    """Over the mixtures: the ratio of evaluations at equal error, at each budget; below 1 ours needs fewer."""
    mixtures = [case["compared"] for name, case in cases.items() if name.startswith("mixture")]
    rows = []
    for budget in BUDGETS:
        ratios = sorted(row["ratio"] for rows_of in mixtures for row in rows_of if row["budget"] == budget)
        if ratios:
            rows.append({"budget": budget, "median": statistics.median(ratios), "low": ratios[0], "high": ratios[-1]})
    return rows


def tabulate(result: dict[str, Any]) -> str:
    """Markdown: the summary, then each case's best at each budget."""
    lines = ["| evaluations | ours / theirs at equal error, median over mixtures | range |", "|---|---|---|"]
    lines += [f"| {r['budget']} | {r['median']:.2f} | {r['low']:.2f} to {r['high']:.2f} |" for r in result["summary"]]
    for name, found in result["cases"].items():
        lines += ["", f"{name}, two fine solutions differ by {found['floor']:.1e}", ""]
        lines += ["| evaluations | ours | error | diffusers | error | ratio |", "|---|---|---|---|---|---|"]
        for row in found.get("compared", []):
            best = [f"{row[s]['solver']}, {row[s]['grid']} | {row[s]['error']:.2e}" for s in ("ours", "theirs")]
            lines.append(f"| {row['budget']} | {best[0]} | {best[1]} | {row['ratio']:.2f} |")
        if "pairs" in found:
            worst = max(found["pairs"].items(), key=lambda item: item[1])
            lines += ["", f"the same solver on the same grid: at most {worst[1]:.1e} apart ({worst[0]})"]
    return "\n".join(lines)


def plot(result: dict[str, Any]) -> bytes:
    """A panel for each case: all points of both sides, and both fronts."""
    from matplotlib.figure import Figure

    count = len(result["cases"])
    figure = Figure(figsize=(3.6 * min(count, 3), 3.2 * math.ceil(count / 3)), layout="constrained")
    panels = figure.subplots(math.ceil(count / 3), min(count, 3), squeeze=False).flat
    for axes, (name, found) in zip(panels, result["cases"].items(), strict=False):
        for side, colour in (("diffusers", "C1"), ("jaxdiff", "C0")):
            points = found.get(side, [])
            axes.plot([p["nfe"] for p in points], [p["error"] for p in points], ".", ms=2, color=colour, alpha=0.3)
            best = front(points) if points else []
            axes.plot([p["nfe"] for p in best], [p["error"] for p in best], "-o", ms=3, color=colour, label=side)
        axes.set(xscale="log", yscale="log", title=name, xlabel="network evaluations", ylim=(found["floor"] / 2, 3))
        axes.grid(color="0.92")
    figure.axes[0].legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="directory of a finished run on pictures; none: the mixtures alone")
    parser.add_argument("--peer", choices=("diffusers", "none"), default="diffusers", help="%(default)s")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/pareto.json"), help="%(default)s")
    parser.add_argument("--plot", type=Path, default=Path("docs/pictures/pareto.png"), help="%(default)s")
    parser.add_argument("--redraw", action="store_true", help="measure nothing: tables and plot from the JSON")
    arguments = parser.parse_args()
    if not arguments.redraw:
        peer, cases = arguments.peer == "diffusers", {}
        for seed in SEEDS:
            denoise = mixture(seed).denoiser(process().schedule)
            cases[f"mixture {seed}"] = case(denoise, (DIMENSIONS,), rms, f"mixture {seed}", peer)
        if arguments.run:
            denoise, shape = of_run(arguments.run)
            cases["network"] = case(denoise, shape, typical, "network", peer)
        about = {"hardware": describe_devices(jax.devices()[:1]), "versions": versions()}
        about |= {"date": str(datetime.date.today())}
        result = {"about": about, "summary": summary(cases) if peer else [], "cases": cases}
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, separators=(",", ":")).replace('{"solver"', '\n{"solver"') + "\n")
    result = json.loads(arguments.json.read_text())
    arguments.plot.write_bytes(plot(result))
    print(tabulate(result))


if __name__ == "__main__":
    main()
