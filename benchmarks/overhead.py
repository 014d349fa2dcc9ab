"""What a step of a solver costs beside the network: arithmetic, bookkeeping and random numbers, against diffusers'.

    python -m benchmarks.overhead
    python -m benchmarks.overhead --steps 200 --batch 64 --peer none

The denoiser is half of x, in both. Microseconds a step: a whole run of `--steps`, compiled, warmed up and waited for,
over its steps; median and quartiles of `--repeats` runs. Stochastic solvers draw their noise, so they are measured
with each of JAX's generators: keys of `threefry2x32` (the default) give the same numbers on every device and layout,
those of `rbg` and `unsafe_rbg` do not promise it. k-diffusion's samplers (its ancestral Euler for `ancestral`) run
beside diffusers' where `make test` has installed them. JAX, Flax and Optax are enough.
"""

import argparse
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import racing, results_file
from benchmarks.progress import Progress
from benchmarks.subjects import process
from benchmarks.timing import compiled, repeated, spread
from jaxdiff import grids, sample, solvers

SOLVERS: dict[str, Any] = {
    "ddim": solvers.DDIM(),
    "euler": solvers.Euler(),
    "dpmpp2m": solvers.DPMpp2M(lower_final=True),
    "unipc": solvers.UniPC(lower_final=True),
    "ancestral": solvers.Ancestral(),
}
GENERATORS = ("threefry2x32", "rbg", "unsafe_rbg")
STOCHASTIC = {"ancestral"}


def half(x: Any, t: Any, cond: Any = None) -> Any:
    return 0.5 * x


def ours(solver: str, generator: str, shape: tuple[int, ...], steps: int, repeats: int) -> dict[str, float]:
    given, denoise = process(), jax.tree_util.Partial(half)
    args = (jax.random.key(0, impl=generator), given, denoise, SOLVERS[solver], grids.trailing(given.schedule, steps))
    x = jnp.ones(shape)
    program = compiled(jax.jit(sample), *args, x=x)
    seconds = repeated(lambda: program.run(*args, x=x), repeats)
    return {key: 1e6 * value / steps for key, value in spread(seconds).items()}


def theirs(solver: str, shape: tuple[int, ...], steps: int, repeats: int) -> dict[str, dict[str, float] | None]:
    """Of both peers; None where one has no such sampler or is not installed."""
    import torch

    from benchmarks import peer_k_diffusion, peers

    x = torch.ones(shape, device=peers.device())
    runs = {"diffusers": peers.sampler(lambda x, k: 0.5 * x, solver, steps), "k-diffusion": None}
    if peer_k_diffusion.installed():
        runs["k-diffusion"] = peer_k_diffusion.sampler(solver, steps)
    found: dict[str, dict[str, float] | None] = dict.fromkeys(runs)
    for name, run in runs.items():
        if run is not None:
            _, seconds, _ = peers.repeated(lambda run=run: run(x), repeats)
            found[name] = {key: 1e6 * value / steps for key, value in spread(seconds).items()}
    return found


def measure(shape: tuple[int, ...], steps: int, repeats: int, peer: bool) -> list[dict[str, Any]]:
    """A row for each solver and generator."""
    rows = []
    say = Progress("overhead", len(SOLVERS) * (1 + peer) + 2)
    for solver in SOLVERS:
        others = theirs(solver, shape, steps, repeats) if peer else {"diffusers": None, "k-diffusion": None}
        other = others["diffusers"]
        if peer:
            say(f"PyTorch, {solver}")
        for generator in GENERATORS if solver in STOCHASTIC else GENERATORS[:1]:
            mine = ours(solver, generator, shape, steps, repeats)
            ratio = other["median"] / mine["median"] if other else None
            drawn = generator if solver in STOCHASTIC else None
            rows.append({"solver": solver, "generator": drawn, "jaxdiff": mine, **others, "ratio": ratio})
            say(f"{solver}, {generator}")
    return rows


def table(result: dict[str, Any]) -> str:
    """Markdown, microseconds a step."""
    lines = ["| solver | jaxdiff, us a step | diffusers | ratio | k-diffusion |", "|---|---|---|---|---|"]
    number = lambda found: "-" if found is None else f"{found['median']:.0f} ({found['q1']:.0f}-{found['q3']:.0f})"
    for row in result["rows"]:
        name = row["solver"] + (f", {row['generator']}" if row["generator"] else "")
        ratio = "-" if row["ratio"] is None else f"{row['ratio']:.1f}"
        lines.append(
            f"| {name} | {number(row['jaxdiff'])} | {number(row['diffusers'])} | {ratio} "
            f"| {number(row.get('k-diffusion'))} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16, help="%(default)s")
    parser.add_argument("--size", type=int, default=32, help="height and width, of 3 channels; %(default)s")
    parser.add_argument("--steps", type=int, default=50, help="%(default)s")
    parser.add_argument("--repeats", type=int, default=20, help="%(default)s")
    parser.add_argument("--peer", choices=("diffusers", "none"), help="default: diffusers where it is installed")
    parser.add_argument("--json", type=Path, help="where to write the figures; nowhere by default")
    arguments = parser.parse_args()
    if min(arguments.batch, arguments.size, arguments.steps, arguments.repeats) < 1:
        parser.error("--batch, --size, --steps and --repeats must be at least 1")
    peer = racing.with_peer(parser, arguments.peer)
    shape = (arguments.batch, arguments.size, arguments.size, 3)
    rows = measure(shape, arguments.steps, arguments.repeats, peer)
    about: dict[str, Any] = {"shape": shape, "steps": arguments.steps, "repeats": arguments.repeats}
    about |= results_file.about(peer=peer)
    result = {"about": about, "rows": rows}
    print(table(result))
    results_file.write(arguments.json, result)


if __name__ == "__main__":
    main()
