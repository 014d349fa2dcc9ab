"""Memory, communication and time of a training step in each layout, on simulated CPU devices.

    python -m benchmarks.layouts [--network dit unet] [--devices 1 2 4 8] [--json OUT]
    python -m benchmarks.layouts --redraw          the tables again, from the JSON

Bytes are those of the programs that XLA compiled for each device: exact, whatever the machine. Times are not worth
much: simulated devices share the cores of one machine, so more of them cannot make a step faster. Prints the tables of
docs/scaling.md in Markdown and writes benchmarks/results/layouts.json. JAX, Flax and Optax are enough.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("PJRT_NPROC", "32")  # or the collectives of eight devices wait for each other's threads

import jax
import numpy as np
import optax

from benchmarks import collectives, results_file
from benchmarks.progress import Progress
from jaxdiff import Gaussian, TrainState, make_step, networks, parallel, schedules

SHAPE, CLASSES, BATCH = (16, 16, 3), 10, 16
WIDTH, DEPTH, TOKENS = 192, 4, 64
NETWORKS = {
    "dit": lambda rngs: networks.DiT(SHAPE, patch=2, width=WIDTH, depth=DEPTH, heads=8, num_classes=CLASSES, rngs=rngs),
    "unet": lambda rngs: networks.UNet(
        SHAPE, channels=64, multipliers=(1, 2), blocks=1, attention=(8,), head_dim=16, num_classes=CLASSES, rngs=rngs
    ),
}
LAYOUTS: dict[str, Callable[[int], dict[str, int] | None]] = {
    "pmap": lambda n: None,
    "data": lambda n: {},
    "fsdp": lambda n: {"fsdp": n},
    "tensor": lambda n: {"tensor": n},
    "fsdp x tensor": lambda n: {"fsdp": n // 2, "tensor": 2},
}
LEAST = {"fsdp x tensor": 4}
"""Devices from which on a layout is measured; 2 for the others."""
OPTIMIZER = optax.adam(1e-3)
DEFAULT = Path("benchmarks/results/layouts.json")


def predicted(network: str, split: dict[str, int], devices: int, gradient: int, held: int) -> float | None:
    """Bytes that a device should send in a step, by the textbook; None where we have no formula.

    Args:
        network: one of `NETWORKS`.
        split: the sizes of the axes fsdp and tensor.
        devices: of the mesh.
        gradient: bytes of the whole gradient.
        held: bytes of the parameters that one device holds.

    With gradients of G bytes over d groups: one all-reduce, 2 (d - 1) / d G. Over f devices of FSDP: the parameters
    gathered for the forward and for the backward pass and the gradient reduced and scattered, 3 (f - 1) / f G (arXiv
    1910.02054 sec. 7). Over t devices of a tensor layout: four all-reduces of the activations in a transformer block
    (arXiv 1909.08053 sec. 3).
    """
    fsdp, tensor = split.get("fsdp", 1), split.get("tensor", 1)
    data = devices // (fsdp * tensor)
    ring = lambda size: (size - 1) / size
    total = 3 * ring(fsdp) * held * fsdp + 2 * ring(data) * (gradient if tensor == 1 else held)
    if tensor > 1:
        if network != "dit":
            return None
        activations = 4 * BATCH // (data * fsdp) * TOKENS * WIDTH
        total += 4 * DEPTH * 2 * ring(tensor) * activations
    return total


def measure(name: str, layout: str, count: int, repeats: int) -> dict[str, Any]:
    """One network in one layout on `count` devices."""
    devices = jax.devices()[:count]
    init, apply = networks.functional(NETWORKS[name])
    step = make_step(Gaussian(schedule=schedules.Cosine()), apply, OPTIMIZER)
    make = lambda: TrainState.create(init(jax.random.key(0)), OPTIMIZER)
    draw = np.random.default_rng(0)
    batch = {
        "x0": draw.uniform(-1, 1, (BATCH, *SHAPE)).astype(np.float32),
        "cond": draw.integers(0, CLASSES, BATCH).astype(np.int32),
        "index": np.arange(BATCH, dtype=np.int32),
    }
    split = LAYOUTS[layout](count)
    if split is None:
        state, key = parallel.replicate((jax.jit(make)(), jax.random.key(1)), devices)
        # Inside `jit` so that the program can be looked at: `pmap_step` returns a plain function.
        lowered = jax.jit(parallel.pmap_step(step, devices), donate_argnums=0).lower(state, key, batch)
    else:
        mesh = parallel.make_mesh(devices, **split)
        state, key = parallel.place((jax.jit(make)(), jax.random.key(1)), mesh)
        batch = parallel.global_batch(batch, mesh)
        lowered = parallel.shard_step(step, mesh).lower(state, key, batch)
    on_one = lambda tree: sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))
    whole = lambda tree: sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
    trained = (state.params, state.opt_state)
    state_bytes, share = on_one(trained), on_one(trained) / whole(trained)
    gradient, held = whole(state.params), on_one(state.params)
    began = time.perf_counter()
    compiled = lowered.compile()
    compile_seconds = time.perf_counter() - began
    text, memory = compiled.as_text(), compiled.memory_analysis()
    assert text and memory  # XLA on CPU has both
    sent = collectives.sent(text, count)
    times = []
    for _ in range(repeats + 2):  # the first two warm up
        began = time.perf_counter()
        state, _ = jax.block_until_ready(compiled(state, key, batch))
        times.append(time.perf_counter() - began)
    expected = predicted(name, split or {}, count, gradient, held)
    return {
        "network": name,
        "layout": layout if count > 1 else "one device",
        "devices": count,
        "mesh": split,
        "parameters": gradient // 4,
        "state_bytes": state_bytes,
        "state_share": share,
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "sent_bytes": sent,
        "sent_total": sum(sent.values()),
        "operations": collectives.count(text, count),
        "predicted_bytes": expected,
        "compile_seconds": compile_seconds,
        "step_seconds": dict(zip(("q1", "median", "q3"), statistics.quantiles(times[2:], n=4), strict=True)),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Of each device, MB of 10^6 bytes; what is sent is a step's, times are median and quartiles."""
    head = ["layout", "devices", "parameters + optimiser", "share x n", "arguments", "temporaries", "sent", "predicted"]
    head += ["all-reduce", "all-gather", "other", "operations", "compile, s", "step, ms"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    mega = lambda size: "-" if size is None else f"{size / 1e6:.2f}"
    for row in rows:
        sent, steps = row["sent_bytes"], row["step_seconds"]
        reduced, gathered = sent.get("all-reduce", 0.0), sent.get("all-gather", 0.0)
        cells = (
            row["layout"],
            row["devices"],
            mega(row["state_bytes"]),
            f"{row['state_share'] * row['devices']:.2f}",
            mega(row["argument_bytes"]),
            mega(row["temporary_bytes"]),
            mega(row["sent_total"]),
            mega(row["predicted_bytes"]),
            mega(reduced),
            mega(gathered),
            mega(row["sent_total"] - reduced - gathered),
            sum(row["operations"].values()),
            f"{row['compile_seconds']:.0f}",
            f"{1e3 * steps['median']:.0f} ({1e3 * steps['q1']:.0f}-{1e3 * steps['q3']:.0f})",
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def rounded(value: Any) -> Any:
    """Six digits of each number are enough."""
    if isinstance(value, dict):
        return {key: rounded(v) for key, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="default: both")
    parser.add_argument("--devices", nargs="+", type=int, default=[1, 2, 4, 8], help="default: %(default)s")
    parser.add_argument("--layout", nargs="+", choices=LAYOUTS, default=list(LAYOUTS), help="default: all")
    parser.add_argument("--repeats", type=int, default=10, help="timed steps (%(default)s)")
    parser.add_argument("--redraw", action="store_true", help="measure nothing")
    parser.add_argument("--json", type=Path, default=DEFAULT, help="%(default)s")
    arguments = parser.parse_args()
    results = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
    if not arguments.redraw:
        jax.config.update("jax_num_cpu_devices", max(arguments.devices))
        for name in arguments.network:
            cases = [(1, "data")] if 1 in arguments.devices else []
            cases += [(n, name) for n in arguments.devices for name in arguments.layout if n >= LEAST.get(name, 2)]
            identity = lambda row: (row["devices"], row["layout"])
            rows, progress = results.get(name, {}).get("rows", []), Progress(name, len(cases))
            for n, layout in cases:
                new = measure(name, layout, n, arguments.repeats)
                rows = [*(row for row in rows if identity(row) != identity(new)), new]
                progress(f"{layout} on {n}")
            order = ["one device", *LAYOUTS]
            rows.sort(key=lambda row: (row["devices"], order.index(row["layout"])))
            about = {
                "batch": BATCH,
                "shape": SHAPE,
                "optimizer": "adam, float32, one moving average beside the parameters",
                "times": "simulated devices share the cores, with other work on them: more devices cannot be faster",
                **results_file.about(jax.devices()),
            }
            results[name] = {"about": about, "rows": rows}
            arguments.json.parent.mkdir(parents=True, exist_ok=True)
            arguments.json.write_text(
                json.dumps(rounded(results), separators=(",", ":")).replace('{"network"', '\n{"network"') + "\n"
            )
    for name, part in results.items():
        print(f"\n{name}, {part['rows'][0]['parameters']:,} parameters: {part['about']}\n\n{table(part['rows'])}")


if __name__ == "__main__":
    main()
