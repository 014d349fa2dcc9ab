"""What `benchmarks.solvers` measures: the solvers, and their errors on an exact denoiser and on a trained network.

A solver gets a budget of calls and takes the most steps that fit into it. Every grid is tried at the budgets `TRY`, on
the network with the first batch only; the better of two grids has the smaller root mean square distance to the exact
solution of the ODE from the same noise, for a deterministic solver, or the smaller distance between laws, for a
stochastic one.

All grids of a solver have one length, padded, so that it is compiled once.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.progress import Progress
from jaxdiff import Gaussian, grids, guidance, oracles, sample, schedules, solvers

DETERMINISTIC: dict[str, Any] = {
    "Euler": solvers.Euler(),
    "DDIM": solvers.DDIM(),
    "Heun": solvers.Heun(),
    "DPMSolver2": solvers.DPMSolver2(),
    "DPMpp2S": solvers.DPMpp2S(),
    "DPMpp3S": solvers.DPMpp3S(),
    "DPMpp2M": solvers.DPMpp2M(),
    "DPMpp3M": solvers.DPMpp3M(),
    "DPMpp3M(start=DPMpp2S())": solvers.DPMpp3M(start=solvers.DPMpp2S()),
    "UniPC": solvers.UniPC(),
    "UniPC(p=3)": solvers.UniPC(p=3),
    "DEIS": solvers.DEIS(),
    "LMS": solvers.LMS(),
    "PNDM": solvers.PNDM(),
}
STOCHASTIC: dict[str, Any] = {
    "Ancestral": solvers.Ancestral(),
    "EulerAncestral": solvers.EulerAncestral(),
    "EulerMaruyama": solvers.EulerMaruyama(),
    "DPMppSDE": solvers.DPMppSDE(),
    "DPMpp2MSDE": solvers.DPMpp2MSDE(),
    "DPMpp3MSDE": solvers.DPMpp3MSDE(),
    "EDMStochastic(churn=5)": solvers.EDMStochastic(churn=5.0),
    "Restart(inner=Heun())": solvers.Restart(inner=solvers.Heun(), low=0.3, high=0.6, times=1, steps=3),
    "PredictorCorrector(inner=Ancestral())": solvers.PredictorCorrector(inner=solvers.Ancestral()),
}
TOLERANCES = (0.1, 0.01, 0.001)  # of Adaptive, whose calls are counted, not chosen
TRY = (10, 20)  # budgets at which every grid is tried; smaller ones take the choice of the first, larger of the last
Sampled = tuple[jax.Array, int]
run = jax.jit(sample, static_argnames="spec", compiler_options={"xla_backend_optimization_level": 1})
count_calls = jax.jit(lambda solver, table: jax.vmap(solver.nfe)(table))


def grid_tables(schedule: Any, denoise: Any, probes: jax.Array, length: int) -> dict[str, jax.Array]:
    """The grids to choose from, each a table whose row n - 1 is the grid of n steps padded to `length`."""
    table = lambda grid, **given: jax.vmap(lambda n: grid(schedule, n, length=length, **given))(
        jnp.arange(1, length + 1)
    )
    tables = {grid.__name__: table(grid) for grid in (grids.karras, grids.logsnr, grids.uniform)}
    optimized = jax.jit(lambda denoise: table(grids.optimized, denoise=denoise, probes=probes))
    return tables | {"optimized": optimized(denoise)}


def steps_within(solver: Any, budget: int, table: jax.Array) -> int:
    """The most steps that call the denoiser no more than `budget` times; 0 where they leave half of it unused."""
    calls = np.asarray(count_calls(solver, table))
    fit = np.flatnonzero(calls <= budget)
    return int(fit[-1]) + 1 if len(fit) and calls[fit[-1]] > budget / 2 else 0


def curves(
    begin: Callable[[Any, jax.Array], Sampled],
    finish: Callable[..., Sampled],
    tables: dict[str, jax.Array],
    budgets: tuple[int, ...],
    distances: Callable[[jax.Array], dict[str, float]],
    law: Callable[[jax.Array], float],
    name: str,
    by: str,
) -> dict[str, list[dict[str, Any]]]:
    """For each solver one point a budget: `{budget, nfe, grid, law, rms, median}`, and what decided on the grid.

    Args:
        begin: draws samples enough to choose a grid by.
        finish: draws all of them; may go on from those that `begin` has drawn.
        tables: of `grid_tables`.
        distances: root mean square and median distance of samples to the exact solution.
        law: distance of the law of samples to that of the data.
        by: which of the distances decides on the grid of a deterministic solver.
    """
    rows: dict[str, list[dict[str, Any]]] = {}
    progress = Progress(name, len(DETERMINISTIC) + len(STOCHASTIC) + 1)

    def figures(sampled, exact):
        x, nfe = sampled
        return {"nfe": nfe, "law": law(x)} | (distances(x) if exact else {})

    for label, solver in {**DETERMINISTIC, **STOCHASTIC}.items():
        exact, rows[label] = label in DETERMINISTIC, []
        key, chosen = by if exact else "law", dict[int, str]()
        for budget in (*TRY, *(b for b in budgets if b not in TRY)):
            near = min(chosen, key=lambda other: abs(other - budget), default=0)
            tried = tables if budget in TRY else [chosen[near]]
            steps = {grid: steps_within(solver, budget, tables[grid]) for grid in tried}
            if not any(steps.values()):
                continue
            grids_of = {grid: tables[grid][n - 1] for grid, n in steps.items() if n}
            begun, errors = {}, {}
            if budget in TRY:
                begun = {grid: begin(solver, times) for grid, times in grids_of.items()}
                errors = {grid: figures(sampled, exact)[key] for grid, sampled in begun.items()}
                chosen[budget] = min(errors, key=lambda grid: errors[grid])
            grid = chosen[budget] if errors else next(iter(grids_of))
            found = figures(finish(solver, grids_of[grid], begun.get(grid)), exact)
            rows[label].append({"budget": budget, "grid": grid, **found, "tried": errors})
        rows[label].sort(key=lambda row: row["budget"])
        best = ", ".join(f"{row['nfe']}: {row[key]:.3g} {row['grid']}" for row in rows[label])
        progress(f"{label}: {best}")
    length = len(next(iter(tables.values())))
    stops = grids.from_times(jnp.array([1.0, 0.001, 0.0]), length=length)
    rows["Adaptive"] = [
        {"tolerance": tol, **figures(finish(solvers.Adaptive(rtol=tol, atol=tol), stops), True)} for tol in TOLERANCES
    ]
    progress("Adaptive")
    return rows


def distances_to(exact: np.ndarray, x: Any) -> dict[str, float]:
    """Of the samples that have an exact solution, which may be the first ones only: over all, and of a typical one."""
    each = np.sqrt(((np.asarray(x)[: len(exact)] - exact) ** 2).reshape(len(exact), -1).mean(1))
    return {"rms": float(np.sqrt((each**2).mean())), "median": float(np.median(each))}


def mixture() -> oracles.GaussianMixture:
    """Three well-separated, unlike components in the plane, of about unit variance; that of tests/conformance.py."""
    return oracles.GaussianMixture(
        weights=np.array([0.2, 0.5, 0.3]),
        means=np.array([[1.0, 0.8], [-0.9, 0.3], [0.4, -1.1]]),
        covariances=np.array(
            [[[0.10, 0.03], [0.03, 0.05]], [[0.04, 0.0], [0.0, 0.12]], [[0.06, -0.02], [-0.02, 0.06]]]
        ),
    )


def sliced(x: np.ndarray, y: np.ndarray, directions: int = 32) -> float:
    """Sliced Wasserstein distance W1 of two sets of equal size in the plane, mean over directions."""
    angles = np.pi * np.arange(directions) / directions
    axes = np.stack([np.cos(angles), np.sin(angles)])
    return float(np.abs(np.sort(x @ axes, 0) - np.sort(y @ axes, 0)).mean())


def on_the_oracle(budgets: tuple[int, ...] = (5, 10, 20, 50, 100), count: int = 32_768) -> dict[str, Any]:
    """Errors on a mixture of Gaussians with its exact denoiser, schedule Cosine."""
    law, process = mixture(), Gaussian(schedule=schedules.Cosine())
    denoise, half = law.denoiser(process.schedule), jax.ShapeDtypeStruct((count // 2, 2), jnp.float32)
    x = process.prior(jax.random.split(jax.random.key(1), count // 2), half)
    x = jnp.concatenate([x, -x])  # without the luck of a mean, which the distance between laws would show
    real = [np.asarray(law.sample(jax.random.key(100 + i), count)) for i in range(6)]

    def begin(solver, grid, x=x, denoise=denoise):
        out, info = run(jax.random.key(0), process, denoise, solver, grid, x=x)
        return out, int(info.nfe)

    def fine(solver):
        with jax.enable_x64(True):
            grid, start = grids.logsnr(process.schedule, 600, sigma_min=1e-4, sigma_max=1e4), jnp.asarray(x, float)
            return np.asarray(begin(solver, grid, x=start, denoise=mixture().denoiser(process.schedule))[0])

    exact = fine(solvers.DPMpp3M(start=solvers.DPMpp2S()))
    distances = functools.partial(distances_to, exact)
    tables = grid_tables(process.schedule, denoise, x[:64], max(budgets))
    finish = lambda solver, grid, begun=None: begun or begin(solver, grid)
    rows = curves(begin, finish, tables, budgets, distances, lambda x: sliced(np.asarray(x), real[0]), "oracle", "rms")
    return {
        "about": {
            "data": "mixture of 3 Gaussians in the plane, exact denoiser, Cosine",
            "count": count,
            "law": "sliced Wasserstein distance to fresh data",
            "law_of_the_exact_ode": sliced(exact, real[0]),
            "rms_of_another_exact": distances(fine(solvers.UniPC()))["rms"],
        },
        "floor": [float(pick([sliced(a, b) for a, b in itertools.combinations(real, 2)])) for pick in (np.min, np.max)],
        "solvers": rows,
    }


def on_digits(
    loaded: tuple[Any, Any, int], budgets: tuple[int, ...] = (10, 20, 50), count: int = 192, batch: int = 64
) -> dict[str, Any]:
    """Errors of the model of a finished run on the digits (`benchmarks.runs.load`), one label a sample, no guidance."""
    from experiments.data import digits, to_pixels
    from experiments.judge import train_judge
    from experiments.scores import proportional_labels
    from jaxdiff.metrics import frechet_distance

    model, params, step = loaded
    (train, train_labels), (test, _) = ((p[..., None], t.astype(np.int32)) for p, t in digits.arrays().values())
    judge = train_judge(train, train_labels, 10, seed=0)
    features, order = judge.features(test), np.random.default_rng(0)
    labels = proportional_labels(train_labels, count)

    def training_images():  # as many of each class as are sampled
        rows = order.permutation(len(train))
        return train[np.concatenate([rows[train_labels[rows] == k][: (labels == k).sum()] for k in range(10)])]

    floors = [frechet_distance(judge.features(training_images()), features) for _ in range(5)]
    floor = float(np.mean(floors))
    process, spec = model.process, jax.ShapeDtypeStruct((batch, *model.info.shape), jnp.float32)
    conditions = order.permutation(labels).reshape(-1, batch)
    network = process.denoiser(jax.tree_util.Partial(model.apply, params))
    denoisers = [guidance.condition(network, jnp.asarray(part)) for part in conditions]

    def one(solver, grid, i=0, seed=0) -> Sampled:
        x, info = run(jax.random.key(seed), process, denoisers[i], solver, grid, spec=spec, first=i * batch)
        return x, int(info.nfe)

    def finish(solver, grid, begun=None):
        parts = [begun or one(solver, grid), *(one(solver, grid, i) for i in range(1, len(denoisers)))]
        return jnp.concatenate([x for x, _ in parts]), max(nfe for _, nfe in parts)

    # Equal steps in t: a trained network is not smooth in t, least of all in its logarithm near the data.
    exact = np.asarray(one(solvers.DEIS(), grids.uniform(process.schedule, 500))[0])
    ratio = lambda x: frechet_distance(judge.features(to_pixels(x)), features) / floor
    probes = process.prior(jax.random.split(jax.random.key(1), batch), spec)
    tables = grid_tables(process.schedule, denoisers[0], probes, max(budgets))
    rows = curves(one, finish, tables, budgets, functools.partial(distances_to, exact), ratio, "digits", "median")
    again = lambda seed: [one(solvers.DPMpp2M(), tables["uniform"][9], i, seed)[0] for i in range(len(denoisers))]
    spread = [ratio(jnp.concatenate(again(seed))) for seed in range(6)]
    return {
        "about": {
            "data": f"{model.info.name}, {type(model.recipe.network).__name__} after {step} steps",
            "schedule": type(process.schedule).__name__,
            "count": count,
            "exact": "DEIS in 500 equal steps in t",
            "exact_count": batch,
            "law": "Frechet distance to the test split in one judge's features, as a ratio to the training split's",
            "law_std_over_seeds": float(np.std(spread, ddof=1)),
        },
        "floor": [float(pick(floors) / floor) for pick in (np.min, np.max)],
        "solvers": rows,
    }
