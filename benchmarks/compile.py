"""What is compiled again when a knob of the sampler changes, and how long compiling takes, cold and from JAX's cache.

    python -m benchmarks.compile [--network unet-small] [--json OUT]

One jitted `sample` is called again and again with one knob changed; the network's Python function counts how often it
is traced. Everything but shapes and the kind of the solver is an argument of the program: its numbers, the guidance
scale, the schedule's numbers, the seed, new parameters, and the grid, whose length is fixed by padding (`length=`).
Cold and cached seconds are those of two processes of their own, the second with the first one's persistent cache. JAX,
Flax and Optax are enough.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import results_file
from benchmarks.subjects import CONFIGS, process, subject
from benchmarks.timing import compiled
from jaxdiff import Gaussian, grids, guidance, predictions, sample, schedules, solvers

LONGEST, BATCH = 256, 2
SWEEP = (5, 10, 20, 50, 100, 200)


def small(params: Any, x: jax.Array, t: Any, cond: Any = None) -> jax.Array:
    """A network whose only cost is to be traced."""
    return params * x + jnp.where(jnp.asarray(cond).reshape(-1, 1) > 0, 0.1, 0.0)


def knobs() -> list[dict[str, Any]]:
    """A row for each change: whether the network was traced again, and the seconds of the call."""
    traces = 0

    def counted(*args: Any) -> jax.Array:
        nonlocal traces
        traces += 1
        return small(*args)

    run = jax.jit(sample, static_argnames="spec")

    def call(
        *,
        params: float = 0.5,
        scale: float = 2.0,
        solver: Any = None,
        schedule: Any = None,
        steps: int = 20,
        length: int | None = LONGEST,
        seed: int = 0,
        batch: int = BATCH,
        grid: Any = grids.karras,
    ) -> None:
        given = Gaussian(schedule=schedule or schedules.LinearBeta(), prediction=predictions.eps())
        network = given.denoiser(jax.tree_util.Partial(counted, jnp.float32(params)))
        rule = guidance.scale(scale=jnp.float32(scale))
        denoise = guidance.classifier_free(network, jnp.ones(batch, int), jnp.int32(0), rule)
        times = grid(given.schedule, steps, length=length)
        spec = jax.ShapeDtypeStruct((batch, 8), jnp.float32)
        jax.block_until_ready(
            run(jax.random.key(seed), given, denoise, solver or solvers.DDIM(eta=0.0), times, spec=spec)
        )

    changes: dict[str, list[dict[str, Any]]] = {
        "the first call": [{}],
        "parameters": [{"params": 0.7}],
        "seed": [{"seed": 1}],
        "guidance scale": [{"scale": 7.5}],
        "a number of the solver (eta of DDIM)": [{"solver": solvers.DDIM(eta=0.5)}],
        "numbers of the schedule": [{"schedule": schedules.LinearBeta(beta_min=0.2, beta_max=15.0)}],
        "another grid of as many steps": [{"grid": grids.uniform}],
        f"steps {', '.join(map(str, SWEEP))}, padded to {LONGEST}": [{"steps": n} for n in SWEEP],
        f"steps {', '.join(map(str, SWEEP))}, not padded": [{"steps": n, "length": None} for n in SWEEP],
        "another batch size": [{"batch": BATCH + 1}],
        "another solver": [{"solver": solvers.Heun()}],
    }
    rows = []
    for name, calls in changes.items():
        before, began = traces, time.perf_counter()
        programs = 0
        for given in calls:
            seen = traces
            call(**given)
            programs += traces > seen
        rows.append({"change": name, "calls": len(calls), "programs": programs, "traces": traces - before})
        rows[-1]["seconds"] = time.perf_counter() - began
    return rows


def once(network: str) -> dict[str, float]:
    """Seconds to trace and to compile ten steps of DDIM with a network, in this process."""
    given = subject(network, "float32")
    cond = jnp.zeros(BATCH, int) if given.classes else None
    denoise = given.process.denoiser(jax.tree_util.Partial(given.apply, given.params))
    denoise = denoise if cond is None else guidance.condition(denoise, cond)
    args = (jax.random.key(0), given.process, denoise, solvers.DDIM(), grids.trailing(process().schedule, 10))
    spec = jax.ShapeDtypeStruct((BATCH, *given.shape), jnp.float32)
    program = compiled(jax.jit(sample, static_argnames="spec"), *args, spec=spec)
    return {"lower_seconds": program.lower_seconds, "compile_seconds": program.compile_seconds}


def cold_and_cached(network: str) -> dict[str, dict[str, float]]:
    """`once` in a process with an empty persistent cache, and in another with what that left there."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        cache = {"JAX_COMPILATION_CACHE_DIR": folder, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        for name in ("cold", "cached"):
            command = [sys.executable, "-m", "benchmarks.compile", "--network", network, "--once"]
            done = subprocess.run(command, env={**os.environ, **cache}, check=True, capture_output=True, text=True)
            found[name] = json.loads(done.stdout.splitlines()[-1])
            print(f"{network}, {name}: {found[name]}", file=sys.stderr)
    return found


def table(result: dict[str, Any]) -> str:
    lines = ["| change | calls | programs compiled | traces of the network | seconds |", "|---|---|---|---|---|"]
    lines += [
        f"| {row['change']} | {row['calls']} | {row['programs']} | {row['traces']} | {row['seconds']:.2f} |"
        for row in result["knobs"]
    ]
    lines += ["", "| network | tracing, s | XLA, cold, s | XLA, cached, s |", "|---|---|---|---|"]
    for name, found in result["networks"].items():
        seconds = found["cold"]["lower_seconds"], found["cold"]["compile_seconds"], found["cached"]["compile_seconds"]
        lines.append(f"| {name} | " + " | ".join(f"{s:.1f}" for s in seconds) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", choices=CONFIGS, default=["unet-small", "dit-s"], help="%(default)s")
    parser.add_argument("--once", action="store_true", help="only compile the first network here, and print seconds")
    parser.add_argument("--json", type=Path, help="where to write the figures; nowhere by default")
    arguments = parser.parse_args()
    if arguments.once:
        print(json.dumps(once(arguments.network[0])))
        return
    result: dict[str, Any] = {"about": results_file.about(), "knobs": knobs()}
    result["networks"] = {name: cold_and_cached(name) for name in arguments.network}
    print(table(result))
    results_file.write(arguments.json, result)


if __name__ == "__main__":
    main()
