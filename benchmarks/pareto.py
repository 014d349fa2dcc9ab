"""Error against network evaluations for every solver x grid, ours and diffusers': who needs fewer at equal error?

    python -m benchmarks.pareto                       five mixtures of Gaussians with their exact denoisers
    python -m benchmarks.pareto --run runs/digits     also the network of a finished run
    python -m benchmarks.pareto --redraw              the tables and the plot again, from the JSON

Everything starts from the same noise at t = 1 of DDPM's table of 1000 betas, which diffusers cannot leave, and is
compared with the solution of the ODE from there. Error: root mean square distance of the mixtures' samples, median
distance of the network's, in standard deviations of the data. The mixtures are drawn from the seeds 0 to 4, and nothing
was tuned on them: grids come with their defaults, `grids.optimized`, which asks the denoiser, is left out. At each
budget a side's best is its smallest error over all that fits, and how many evaluations the other side needs for the
same error is read off its front, linear between points in log-log. Of a network the points of both fronts are timed:
it is the same compiled program on both sides, called in each step from PyTorch on diffusers'.
"""

import argparse
import importlib
import itertools
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import racing, results_file
from benchmarks.pareto_fronts import BUDGETS, Point, best_grids, compare, front, plot, summary, table
from benchmarks.progress import Progress
from benchmarks.runs import load
from benchmarks.solver_errors import DETERMINISTIC, steps_within
from benchmarks.subjects import process
from benchmarks.timing import compiled, repeated, spread
from jaxdiff import grids, guidance, oracles, sample, solvers

SEEDS, COUNT, DIMENSIONS, COMPONENTS = (0, 1, 2, 3, 4), 256, 8, 5
NETWORK, PICTURES, REPEATS = (
    "network",
    32,
    5,
)  # of a run: samples of its network, and timed calls of each point of a front
SOLVERS = {name: solver for name, solver in DETERMINISTIC.items() if name != "Euler"}  # which is DDIM here
GRIDS: dict[str, Callable[..., Any]] = {
    name: getattr(grids, name) for name in ("karras", "logsnr", "uniform", "quadratic", "beta", "trailing", "linspace")
}
run = jax.jit(sample, static_argnames="spec", compiler_options={"xla_backend_optimization_level": 1})


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
        for (grid, times), budget in itertools.product(all_times.items(), BUDGETS):
            if steps := steps_within(solver, budget, times):
                out, info = run(jax.random.key(0), process(), denoise, solver, times[steps - 1], x=x)
                found.append({"solver": name, "grid": grid, "nfe": int(info.nfe), "error": error(out)})
        say(name)
    return found


def timed(denoise: Any, x: jax.Array, points: list[Point]) -> None:
    """Put the `seconds` of our points into them: each a program of its own, compiled, warmed up and waited for."""
    for point in points:
        make, solver = GRIDS[point["grid"]], SOLVERS[point["solver"]]
        steps = steps_within(solver, point["nfe"], tables()[point["grid"]])
        args = (jax.random.key(0), process(), denoise, solver, make(process().schedule, steps))
        program = compiled(jax.jit(sample), *args, x=x)
        point["seconds"] = spread(repeated(lambda args=args, run=program.run: run(*args, x=x), REPEATS))["median"]


def case(
    denoise: Any, shape: tuple[int, ...], distance: Callable[[Any, Any], float], name: str, count: int, peer: bool
) -> dict[str, Any]:
    """One denoiser `(x, t, cond) -> x0` on DDPM's table; the points of the fronts of a network are timed as well."""
    say = Progress(name, len(SOLVERS) + 1 + peer + (name == NETWORK))
    x = jax.random.normal(jax.random.key(1), (count, *shape))
    fine = grids.logsnr(process().schedule, 500)
    solve = lambda solver: np.asarray(run(jax.random.key(0), process(), denoise, solver, fine, x=x)[0])
    exact = solve(solvers.DPMpp3M(start=solvers.DPMpp2S()))
    error = lambda out: distance(np.asarray(out), exact)
    say("the exact solution")
    result: dict[str, Any] = {"floor": error(solve(solvers.UniPC(p=3))), "jaxdiff": ours(denoise, x, error, say)}
    pareto_peers: Any = importlib.import_module("benchmarks.pareto_peers") if peer else None
    if peer:
        result["diffusers"] = pareto_peers.points(denoise, np.asarray(x), error, BUDGETS)
        result["pairs"] = pareto_peers.pairs(denoise, np.asarray(x))
        say("diffusers")
        result["compared"] = compare(result["jaxdiff"], result["diffusers"])
    if name == NETWORK:
        timed(denoise, x, front(result["jaxdiff"]))
        if peer:
            pareto_peers.timed(denoise, np.asarray(x), front(result["diffusers"]), REPEATS)
        say("seconds of the fronts")
    return result | {side: best_grids(result[side]) for side in ("jaxdiff", "diffusers") if side in result}


def rms(x: np.ndarray, exact: np.ndarray) -> float:
    return float(np.sqrt(((x - exact) ** 2).mean()))


def typical(x: np.ndarray, exact: np.ndarray) -> float:
    return float(np.median(np.sqrt(((x - exact) ** 2).reshape(len(x), -1).mean(1))))


def of_run(directory: str) -> tuple[Any, tuple[int, ...]]:
    """The denoiser of a finished run at the table's noise levels, and the shape of its data."""
    model, params, _ = load(directory)
    denoise = model.denoiser(jax.tree.map(jnp.asarray, params))
    classes = len(model.info.classes)
    told = guidance.condition(denoise, jnp.arange(PICTURES) % classes) if classes else denoise
    return jax.tree_util.Partial(_at_the_same_noise, model.process.schedule, told), model.info.shape


def _at_the_same_noise(schedule: Any, denoise: Any, x: jax.Array, t: Any, cond: Any = None) -> jax.Array:
    """A denoiser of another schedule that keeps the variance, at the time of the same log-SNR."""
    alpha, sigma = process().schedule(t)
    return denoise(x, schedule.inverse(2 * (jnp.log(alpha) - jnp.log(sigma))))


def measured(directory: str | None, peer: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each case as soon as it is there."""
    network = of_run(directory) if directory else None
    for seed in SEEDS:
        name = f"mixture {seed}"
        yield name, case(mixture(seed).denoiser(process().schedule), (DIMENSIONS,), rms, name, COUNT, peer)
    if network is not None:
        yield NETWORK, case(*network, typical, NETWORK, PICTURES, peer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="directory of a finished run on pictures; none: the mixtures alone")
    parser.add_argument("--peer", choices=("diffusers", "none"), help="default: diffusers where it is installed")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/cpu/pareto.json"), help="%(default)s")
    parser.add_argument("--plot", type=Path, default=Path("docs/pictures/pareto.png"), help="%(default)s")
    parser.add_argument("--redraw", action="store_true", help="measure nothing: tables and plot from the JSON")
    arguments = parser.parse_args()
    if not arguments.redraw:
        peer, cases = racing.with_peer(parser, arguments.peer), {}
        made_on = results_file.about(peer=peer)
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        for name, found in measured(arguments.run, peer):
            cases[name] = found
            result = {"about": made_on, "summary": summary(cases) if peer else [], "cases": cases}
            text = json.dumps(result, separators=(",", ":")).replace('{"solver"', '\n{"solver"')
            arguments.json.write_text(text + "\n")
    result = json.loads(arguments.json.read_text())
    arguments.plot.write_bytes(plot(result))
    print(table(result))


if __name__ == "__main__":
    main()
