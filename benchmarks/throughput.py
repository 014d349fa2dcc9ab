"""Samples a second of one network, solver and batch, and where the time goes; beside diffusers on the same weights.

    python -m benchmarks.throughput                                    a small U-Net, DDIM, against diffusers
    python -m benchmarks.throughput --network dit-s --precision bfloat16 --peer none
    python -m benchmarks.throughput --network runs/digits --solver dpmpp2m --batch 64 --json digits.json

Each program is compiled, then warmed up by two calls, then timed; every call is waited for. Compilation stands apart.
Achieved flop/s are of the products and convolutions in the network's calls (`benchmarks.flops`), bytes/s as the
compiler counts them, beside what a matrix product, a convolution and a copy reach on this device in the same run. With
a peer, samples from the same noise are compared: the race is between equal results. JAX, Flax and Optax are enough,
PyTorch and diffusers for `--peer diffusers`.
"""

import argparse
import importlib
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import ceilings, racing, results_file
from benchmarks.progress import Progress
from benchmarks.runs import load
from benchmarks.subjects import CONFIGS, Subject, subject
from benchmarks.timing import compiled, repeated, spread
from jaxdiff import grids, guidance, parallel, sample, solvers

SOLVERS: dict[str, Any] = {
    "ddim": solvers.DDIM(),
    "euler": solvers.Euler(),
    "heun": solvers.Heun(),
    "dpmpp2m": solvers.DPMpp2M(lower_final=True),
    "unipc": solvers.UniPC(lower_final=True),
    "ancestral": solvers.Ancestral(),
}


def of_run(directory: str) -> tuple[Subject, str]:
    """A finished run and the dtype that its network computes in; its labels are the classes of the data."""
    model, params, _ = load(directory)
    params = model.cast(jax.tree.map(jnp.asarray, params))
    given = Subject(model.process, model.apply, params, model.info.shape, len(model.info.classes))
    return given, model.recipe.network.dtype


def half(x: jax.Array, t: jax.Array, cond: Any = None) -> jax.Array:
    """The denoiser that costs nothing: what is left is the solver."""
    return 0.5 * x


def ours(given: Subject, arguments: argparse.Namespace, grid: jax.Array, say: Progress) -> tuple[dict[str, Any], Any]:
    """Figures of our side, and its samples from `noise`."""
    batch, solver = arguments.batch, SOLVERS[arguments.solver]
    cond = jnp.arange(batch) % given.classes if given.classes else None
    network = given.process.denoiser(jax.tree_util.Partial(given.apply, given.params))
    denoise = network if cond is None else guidance.condition(network, cond)
    x = jnp.asarray(noise(batch, given.shape))
    key = jax.random.key(0)
    found: dict[str, Any] = {"batch": batch, "parameters": sum(leaf.size for leaf in jax.tree.leaves(given.params))}

    call = compiled(jax.jit(lambda d, x, t: d(x, t)), denoise, x, grid[0])
    seconds = repeated(lambda: call.run(denoise, x, grid[0]), arguments.repeats)
    found["network"] = {"flops": call.flops, "bytes": call.bytes, "seconds": spread(seconds)}
    say("one call of the network")

    if arguments.devices > 1:
        chosen = jax.devices()[: arguments.devices]
        draw = partial(parallel.pmap_sample, devices=chosen)
        spec = jax.ShapeDtypeStruct(x.shape, x.dtype)
        # The noise is drawn inside: `pmap_sample` shares keys, not arrays.
        args = (key, given.process, parallel.replicate(denoise, chosen) if cond is None else denoise, solver, grid)
        began = time.perf_counter()
        jax.block_until_ready(draw(*args, spec=spec))
        found["first_seconds"] = time.perf_counter() - began
        run = lambda: draw(*args, spec=spec)
    else:
        began = time.perf_counter()
        program = compiled(jax.jit(sample), key, given.process, denoise, solver, grid, x=x)
        run = lambda: program.run(key, given.process, denoise, solver, grid, x=x)
        jax.block_until_ready(run())
        found["first_seconds"] = time.perf_counter() - began
        found |= {"lower_seconds": program.lower_seconds, "compile_seconds": program.compile_seconds}
        found["memory_bytes"] = program.memory
    samples, info = run()
    found["nfe"] = int(info.nfe)
    found["seconds"] = spread(repeated(run, arguments.repeats))
    say(f"{arguments.steps} steps of {arguments.solver}")

    free = jax.tree_util.Partial(half)
    bare = compiled(jax.jit(sample), key, given.process, free, solver, grid, x=x)
    found["solver"] = {"seconds": spread(repeated(lambda: bare.run(key, given.process, free, solver, grid, x=x), 10))}
    say("the solver alone")
    return found, np.asarray(samples)


def theirs(
    found: dict[str, Any],
    model: Any,
    given: Subject,
    arguments: argparse.Namespace,
    say: Progress,
    keep: Callable[[], None],
) -> Any:
    """Samples of diffusers from the same noise; its figures in each way to run it go into `found`."""
    torch, peers = (importlib.import_module(name) for name in ("torch", "benchmarks.peers"))
    labels = torch.arange(arguments.batch, device=peers.device()) % given.classes if given.classes else None
    x = torch.tensor(noise(arguments.batch, given.shape).transpose(0, 3, 1, 2).copy(), device=peers.device())
    dtype, samples = getattr(torch, arguments.precision), None
    model = model if dtype == torch.float32 else model.to(dtype)
    for way in peers.WAYS:
        if way == "channels_last" and given.classes:
            continue  # of convolutions alone
        with peers.prepared(model, way) as network:

            def call(x: Any, k: Any, network: Any = network) -> Any:
                x, k = x.to(dtype), k.to(x.device)
                out = network(x, k.expand(len(x)), class_labels=labels) if given.classes else network(x, k)
                return out.sample.float()

            run = peers.sampler(call, arguments.solver, arguments.steps)
            first, seconds, out = peers.repeated(lambda run=run: run(x), arguments.repeats)
            found[way] = {"first_seconds": first, "seconds": spread(seconds)}
            samples = out.cpu().numpy().transpose(0, 2, 3, 1) if samples is None else samples
        keep()
        say(f"diffusers, {way}")
    return samples


def noise(batch: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((batch, *shape)).astype(np.float32)


def measure(
    given: Subject | None, arguments: argparse.Namespace, keep: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """All figures of a run's network, or of the named one.

    `keep` is given what there is after each of them, since a compilation may outlast the patience.
    """
    peer = arguments.peer == "diffusers"
    say = Progress(arguments.network, 4 + peer * 5)
    result: dict[str, Any] = {"ceilings": {"jax": ceilings.measure(arguments.precision)}}
    say("ceilings of the device")
    model, arrays = None, None
    peers: Any = importlib.import_module("benchmarks.peers") if peer else None
    if peer:
        result["ceilings"]["torch"] = peers.ceilings(arguments.precision)
        say("ceilings of PyTorch")
        model = peers.network(CONFIGS[arguments.network])
        arrays = peers.arrays(model)
    if given is None:
        given = subject(arguments.network, arguments.precision, arrays, flash=arguments.flash, sampled=True)
    if peer:
        grid = jnp.asarray(peers.times(arguments.solver, arguments.steps))
    else:
        grid = grids.uniform(given.process.schedule, arguments.steps)
    result["jaxdiff"], mine = ours(given, arguments, grid, say)
    keep(result)
    if peer:
        result["diffusers"] = {}
        other = theirs(result["diffusers"], model, given, arguments, say, lambda: keep(result))
        result["difference"] = float(np.abs(mine - other).max() / np.abs(other).max())
        result["spread_of_samples"] = float(other.std())
    return result


def table(result: dict[str, Any]) -> str:
    """The figures in lines."""
    mine, about = result["jaxdiff"], result["about"]
    seconds, nfe, call = mine["seconds"]["median"], mine["nfe"], mine["network"]
    count, rate = mine["batch"], mine["nfe"] / mine["seconds"]["median"]
    top = result["ceilings"]["jax"]
    alone = mine["solver"]["seconds"]["median"] / seconds
    lines = [
        f"{about['network']}, {mine['parameters']:,} parameters, {about['precision']}; {about['solver']}, "
        f"{about['steps']} steps, {nfe} NFE, batch {count}, {about['hardware']}",
        f"{'':18}{'samples/s':>12}{'ms/NFE':>9}{'quartiles':>16}{'first, s':>10}{'of ours':>9}",
    ]

    def row(name: str, found: dict[str, Any]) -> str:
        each = {key: 1e3 * value / nfe for key, value in found["seconds"].items()}
        quartiles = f"{each['q1']:.2f}-{each['q3']:.2f}"
        median, first = found["seconds"]["median"], found["first_seconds"]
        speed = f"{count / median:>12.3f}{each['median']:>9.2f}{quartiles:>16}"
        return f"{name:18}{speed}{first:>10.1f}{median / seconds:>9.2f}"

    lines += [row("jaxdiff", mine), *(row(name, found) for name, found in result.get("diffusers", {}).items())]
    if "compile_seconds" in mine:
        lines.append(
            f"traced in {mine['lower_seconds']:.1f} s, compiled in {mine['compile_seconds']:.1f} s; "
            f"{mine['memory_bytes'] / 1e6:.0f} MB at the peak"
        )
    lines += [
        f"a call alone {1e3 * call['seconds']['median']:.2f} ms; the solver alone {100 * alone:.1f} % of the time",
        f"network: {call['flops'] * rate / 1e9:.1f} of {top['product'] / 1e9:.0f} Gflop/s (matrix product), "
        f"{top['convolution'] / 1e9:.0f} (convolution)",
        f"         {call['bytes'] * rate / 1e9:.1f} of {top['copy'] / 1e9:.1f} GB/s (copy)",
    ]
    if "torch" in result["ceilings"]:
        other = result["ceilings"]["torch"]
        lines.append(
            f"PyTorch here: {other['product'] / 1e9:.0f} Gflop/s (matrix product), {other['convolution'] / 1e9:.0f} "
            f"(convolution); samples differ by {result['difference']:.1e} of their largest value"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="unet-small", help=f"{', '.join(CONFIGS)}, or a run; %(default)s")
    parser.add_argument("--solver", choices=SOLVERS, default="ddim", help="%(default)s")
    parser.add_argument("--batch", type=int, default=8, help="over all devices; %(default)s")
    parser.add_argument("--steps", type=int, default=10, help="%(default)s")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), help="float32; a run has its own")
    parser.add_argument("--flash", action="store_true", help="attend by cuDNN's kernel; on a GPU, in bfloat16")
    parser.add_argument("--devices", type=int, default=1, help="%(default)s")
    parser.add_argument("--peer", choices=("diffusers", "none"), help="default: diffusers where it can race")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls after two that warm up; %(default)s")
    parser.add_argument("--json", type=Path, help="where to write the figures; nowhere by default")
    arguments = parser.parse_args()
    check(parser, arguments)
    given = None
    if arguments.network not in CONFIGS:
        given, arguments.precision = of_run(arguments.network)
    about: dict[str, Any] = {key: value for key, value in vars(arguments).items() if key != "json"}
    about |= results_file.about(jax.devices()[: arguments.devices], peer=arguments.peer == "diffusers")
    keep = lambda found: results_file.write(arguments.json, {"about": about, **found})
    result = measure(given, arguments, keep)
    keep(result)
    print(table({"about": about, **result}))


def check(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Refuse what cannot be raced, and choose the peer."""
    named, solver = arguments.network in CONFIGS, arguments.solver
    if not named and not os.path.isdir(arguments.network):
        parser.error(f"--network must be {', '.join(CONFIGS)} or the directory of a run, got {arguments.network}")
    if min(arguments.batch, arguments.steps, arguments.repeats, arguments.devices) < 1:
        parser.error("--batch, --steps, --repeats and --devices must be at least 1")
    if arguments.flash and not (named and arguments.precision == "bfloat16"):
        parser.error("--flash is for named networks with --precision bfloat16; a run has its own --network.flash")
    if arguments.precision and not named:
        parser.error("--precision is for named networks; a run computes as it was trained, with its --network.dtype")
    arguments.precision = arguments.precision or "float32"
    if arguments.devices > 1:
        jax.config.update("jax_num_cpu_devices", arguments.devices)  # of CPUs alone, before anything asks for devices
    can = named and solver in ("ddim", "euler", "dpmpp2m", "unipc") and arguments.devices == 1
    if arguments.peer == "diffusers" and not can:
        parser.error("--peer diffusers races named networks by ddim, euler, dpmpp2m and unipc on one device")
    arguments.peer = "diffusers" if can and racing.with_peer(parser, arguments.peer) else "none"


if __name__ == "__main__":
    main()
