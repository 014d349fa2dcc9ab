"""How the cost of sampling grows with steps, batch, resolution, width and devices: measured, with fitted exponents.

    python -m benchmarks.scaling                          on this device; --devices 1 2 4 8 on as many GPUs or TPUs
    python -m benchmarks.scaling --axis steps batch --repeats 9

Each point is a compiled run of DDIM, warmed up and waited for; the points of an axis take turns, so that a machine that
slows down slows all of them. The exponent is the slope of log seconds over log size by least squares over all repeats,
with the 95 % interval of the bootstrap over repeats. Memory is that of the compiled program. JAX, Flax and Optax are
enough.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import results_file
from benchmarks.progress import Progress
from benchmarks.subjects import process
from benchmarks.timing import compiled, repeated, spread
from jaxdiff import grids, networks, parallel, sample, solvers

SIZES = {
    "steps": (20, 40, 80, 160),
    "batch": (16, 32, 64, 128),
    "resolution": (16, 32, 64),
    "width": (32, 64, 128),
    "devices": (1, 2, 4, 8),
}
BASE = {"steps": 5, "batch": 8, "resolution": 16, "width": 32}
DRAWS = 2_000


def point(*, steps: int, batch: int, resolution: int, width: int, devices: int = 1) -> tuple[Callable[[], Any], int]:
    """A run to time, and the bytes of its program (0 on several devices)."""
    shape = (resolution, resolution, 3)
    make = lambda rngs: networks.UNet(shape, channels=width, multipliers=(1, 2), blocks=1, attention=(), rngs=rngs)
    init, apply = networks.functional(make)
    given = process()
    denoise = given.denoiser(jax.tree_util.Partial(apply, jax.jit(init)(jax.random.key(0))))
    args = (given, denoise, solvers.DDIM(), grids.trailing(given.schedule, steps))
    spec = jax.ShapeDtypeStruct((batch, *shape), jnp.float32)
    if devices > 1:
        draw = partial(parallel.pmap_sample, devices=jax.devices()[:devices])
        return lambda: draw(jax.random.key(0), *args, spec=spec), 0
    program = compiled(jax.jit(sample, static_argnames="spec"), jax.random.key(0), *args, spec=spec)
    return lambda: program.run(jax.random.key(0), *args), program.memory


def slope(sizes: Any, seconds: np.ndarray) -> float:
    """Of log seconds (points, repeats) over log size."""
    x = np.log(np.asarray(sizes, float))
    return float(np.polyfit(x, np.log(seconds).mean(1), 1)[0])


def exponent(sizes: Any, seconds: np.ndarray) -> dict[str, float]:
    """The slope and the 95 % interval of the bootstrap over the repeats of each point."""
    rng = np.random.default_rng(0)
    chosen = rng.integers(0, seconds.shape[1], (DRAWS, *seconds.shape))
    drawn = [slope(sizes, np.take_along_axis(seconds, index, 1)) for index in chosen]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"exponent": slope(sizes, seconds), "low": float(low), "high": float(high)}


def along(axis: str, sizes: tuple[int, ...], repeats: int) -> dict[str, Any]:
    """Seconds at each size of one axis, the others at `BASE`."""
    say = Progress(axis, len(sizes) + repeats)
    runs, memory = [], []
    for size in sizes:
        # On several devices each has the base's share: the time should stay.
        given = {**BASE, axis: size} | ({"batch": BASE["batch"] * size} if axis == "devices" else {})
        run, held = point(**given)
        repeated(run, 0)
        runs.append(run)
        memory.append(held)
        say(f"{size} compiled")
    seconds = np.empty((len(sizes), repeats))
    for repeat in range(repeats):
        for i, run in enumerate(runs):
            seconds[i, repeat] = repeated(run, 1, warm_up=0)[0]
        say(f"repeat {repeat + 1}")
    return {
        "sizes": sizes,
        "seconds": [spread(row.tolist()) for row in seconds],
        "memory_bytes": memory,
        **exponent(sizes, seconds),
    }


def table(result: dict[str, Any]) -> str:
    """Markdown."""
    lines = ["| axis | sizes | seconds | exponent (95 %) | memory, MB |", "|---|---|---|---|---|"]
    for axis, found in result["axes"].items():
        seconds = ", ".join(f"{row['median']:.3g}" for row in found["seconds"])
        memory = ", ".join(f"{size / 1e6:.3g}" if size else "-" for size in found["memory_bytes"])
        fitted = f"{found['exponent']:.3f} ({found['low']:.3f} to {found['high']:.3f})"
        lines.append(f"| {axis} | {', '.join(map(str, found['sizes']))} | {seconds} | {fitted} | {memory} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--axis", nargs="+", choices=SIZES, help="default: all but devices, and these if there are more"
    )
    parser.add_argument("--devices", nargs="+", type=int, help="sizes of the axis devices")
    parser.add_argument("--repeats", type=int, default=7, help="%(default)s")
    parser.add_argument("--json", type=Path, help="where to write the figures; nowhere by default")
    arguments = parser.parse_args()
    if arguments.repeats < 2:
        parser.error("--repeats must be at least 2, for an interval")
    if arguments.devices and jax.default_backend() == "cpu":
        parser.error("simulated devices share the cores of one machine, so --devices needs GPUs or TPUs")
    there = len(jax.devices())
    sizes = SIZES | {"devices": tuple(arguments.devices or [n for n in SIZES["devices"] if n <= there])}
    axes = arguments.axis or [axis for axis in SIZES if axis != "devices" or there > 1]
    about = {"base": BASE, "repeats": arguments.repeats, **results_file.about(jax.devices())}
    result = {"about": about, "axes": {axis: along(axis, sizes[axis], arguments.repeats) for axis in axes}}
    print(table(result))
    results_file.write(arguments.json, result)


if __name__ == "__main__":
    main()
