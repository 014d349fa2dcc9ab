"""DiT-XL/2 (arXiv 2212.09748) compiled for a slice of TPUs, without a TPU: memory, operations and communication.

    pip install jax[tpu]; python -m benchmarks.slices [--topology v5p:4x4x4] [--layout data fsdp] [--depth 28]

The compiler of TPUs (libtpu) runs on any x86 machine, for a topology that it is told. What comes out is a program and
the compiler's account of it, exact in bytes; it was never run, so there is no time in it. An entry takes minutes to an
hour, grows with the depth, and is added to benchmarks/results/slices.json.
"""

import argparse
import datetime
import json
import os
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks import collectives
from benchmarks.progress import Progress
from experiments.hardware import versions
from jaxdiff import Gaussian, TrainState, make_step, networks, parallel, schedules

SHAPE, CLASSES = (32, 32, 4), 1000
"""Latents of pictures of 256 x 256."""
LAYOUTS = {
    "data": lambda n: {},
    "fsdp": lambda n: {"fsdp": n},
    "fsdp 16": lambda n: {"fsdp": 16},
    "tensor 4": lambda n: {"tensor": 4},
}


def measure(topology: str, layout: str, depth: int, batch: int, remat: bool) -> dict[str, Any]:
    """The training step with `batch` examples for each chip: bfloat16 with float32 parameters, AdamW, one average."""
    devices = topologies.get_topology_desc(topology, platform="tpu").devices
    chips = len(devices)
    init, apply = networks.functional(
        lambda rngs: networks.DiT(
            SHAPE,
            width=1152,
            depth=depth,
            heads=16,
            num_classes=CLASSES,
            dtype=jnp.bfloat16,
            remat=remat,
            rngs=rngs,
        )
    )
    optimizer = optax.adamw(1e-4)
    step = make_step(
        Gaussian(schedule=schedules.Cosine()), apply, optimizer, null_cond=np.int32(CLASSES), cond_dropout=0.1
    )
    mesh = parallel.make_mesh(devices, **LAYOUTS[layout](chips))
    put = lambda a, sharding: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding)
    state = jax.eval_shape(lambda: TrainState.create(init(jax.random.key(0)), optimizer))
    state = jax.tree.map(put, state, parallel.shardings(state, mesh))
    key = put(jax.eval_shape(lambda: jax.random.key(0)), NamedSharding(mesh, PartitionSpec()))
    rows = batch * chips
    shapes = {"x0": ((rows, *SHAPE), jnp.float32), "cond": ((rows,), jnp.int32), "index": ((rows,), jnp.int32)}
    examples = {name: jax.ShapeDtypeStruct(*shape) for name, shape in shapes.items()}
    began = time.perf_counter()
    compiled = parallel.shard_step(step, mesh).lower(state, key, examples).compile()
    text, memory, cost = compiled.as_text(), compiled.memory_analysis(), compiled.cost_analysis()
    assert text and memory and cost
    return {
        "topology": topology,
        "chips": chips,
        "layout": layout,
        "depth": depth,
        "batch_per_chip": batch,
        "remat": remat,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "flops": cost["flops"],
        "sent_bytes": collectives.sent(text, chips),
        "operations": collectives.count(text, chips),
        "compile_seconds": round(time.perf_counter() - began),
        "versions": versions() | {"libtpu": version("libtpu")},
        "date": str(datetime.date.today()),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Of each chip; GB are 10^9 bytes, and what is sent is a step's."""
    head = "layout", "depth", "batch", "remat", "arguments, GB", "temporaries, GB", "Tflop", "sent, GB", "operations"
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows:
        sent = ", ".join(f"{kind} {size / 1e9:.3f}" for kind, size in row["sent_bytes"].items())
        cells = (
            *(row[name] for name in ("layout", "depth", "batch_per_chip", "remat")),
            *(f"{row[name] / 1e9:.2f}" for name in ("argument_bytes", "temporary_bytes")),
            f"{row['flops'] / 1e12:.2f}",
            f"{sum(row['sent_bytes'].values()) / 1e9:.3f} ({sent})",
            sum(row["operations"].values()),
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", default="v5p:4x4x4", help="generation and chips along each axis (%(default)s)")
    parser.add_argument("--layout", nargs="*", choices=LAYOUTS, default=["data", "fsdp"], help="default: %(default)s")
    parser.add_argument("--depth", nargs="+", type=int, default=[28], help="blocks; DiT-XL has %(default)s")
    parser.add_argument("--batch", type=int, default=4, help="examples for each chip (%(default)s)")
    parser.add_argument("--remat", action="store_true", help="recompute the blocks in the backward pass")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/slices.json"), help="%(default)s")
    arguments = parser.parse_args()
    # No device is needed: JAX must not look for one, nor libtpu for the machine that a TPU sits in.
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    jax.config.update("jax_platforms", "cpu")
    rows = json.loads(arguments.json.read_text()) if arguments.json.exists() else []
    progress = Progress(arguments.topology, len(arguments.layout) * len(arguments.depth))
    identity = lambda row: [row[name] for name in ("topology", "layout", "depth", "batch_per_chip", "remat")]
    for layout in arguments.layout:
        for depth in arguments.depth:
            new = measure(arguments.topology, layout, depth, arguments.batch, arguments.remat)
            rows = sorted([*(row for row in rows if identity(row) != identity(new)), new], key=identity)
            arguments.json.parent.mkdir(parents=True, exist_ok=True)
            arguments.json.write_text("[" + ",\n".join(map(json.dumps, rows)) + "]\n")
            progress(f"{layout}, {depth} blocks")
    print(table(rows))


if __name__ == "__main__":
    main()
