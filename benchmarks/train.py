"""A training step of one network: time, images a second, share of the device's peak, and of the input pipeline.

    python -m benchmarks.train                                   a small U-Net, against PyTorch
    python -m benchmarks.train --network dit-b --batch 256 --precision bfloat16 --peer none

Ours is `make_step` as the experiments use it: times, noise, loss, gradient, clipping, AdamW and the average of the
parameters in one program, whose state is donated. PyTorch's does the same in its own idiom on diffusers' network of the
same options. Model flops are three times those of the forward pass (`benchmarks.flops`); the share of the peak is
against a matrix product and a convolution in the same run. JAX, Flax and Optax are enough without a peer.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import ceilings, racing, results_file
from benchmarks.progress import Progress
from benchmarks.subjects import CONFIGS, subject
from benchmarks.timing import compiled, repeated, spread
from experiments.data import Batches, Split
from jaxdiff import TrainState, make_step

PICTURES = 4096  # in memory, of which batches are made


def ours(name: str, precision: str, batch: int, repeats: int, flash: bool, say: Progress) -> dict[str, Any]:
    """Seconds of a step, of its forward pass alone, and of making a batch."""
    given = subject(name, precision, flash=flash)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-4, weight_decay=0.0))
    step = jax.jit(make_step(given.process, given.apply, optimizer), donate_argnums=0)
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (PICTURES, *given.shape), np.uint8)
    labels = draw.integers(0, given.classes, PICTURES).astype(np.int32) if given.classes else None
    feed, place = Batches(split=Split(images=pixels, labels=labels), batch_size=batch, seed=0), 0

    def fed() -> Any:
        nonlocal place
        place += 1
        return jax.device_put(feed[place])

    data, key = fed(), jax.random.key(0)
    state = TrainState.create(given.params, optimizer)
    found: dict[str, Any] = {"parameters": sum(leaf.size for leaf in jax.tree.leaves(given.params))}
    forward = compiled(jax.jit(given.apply), given.params, data["x0"], jnp.full(batch, 0.5), data.get("cond"))
    args = (given.params, data["x0"], jnp.full(batch, 0.5), data.get("cond"))
    found["forward_seconds"] = spread(repeated(lambda: forward.run(*args), repeats))
    say("the forward pass")

    program = compiled(step, state, key, data)

    def run() -> Any:
        nonlocal state
        state, metrics = program.run(state, key, data)
        return metrics

    found["seconds"] = spread(repeated(run, repeats))
    found |= {"lower_seconds": program.lower_seconds, "compile_seconds": program.compile_seconds}
    found |= {"memory_bytes": program.memory, "model_flops": 3 * forward.flops, "counted_flops": program.flops}
    say("the step")
    found["input_seconds"] = spread(repeated(fed, repeats))
    say("the input pipeline")
    return found


def measure(
    name: str, precision: str, batch: int, repeats: int, peer: bool, flash: bool, keep: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """All figures; `keep` is given what there is after each of them, since a compilation may outlast the patience."""
    say = Progress(f"training of {name}", 4 + 3 * peer)
    result: dict[str, Any] = {"ceilings": {"jax": ceilings.measure(precision)}}
    say("ceilings of the device")
    result["jaxdiff"] = ours(name, precision, batch, repeats, flash, say)
    keep(result)
    if peer:
        from benchmarks import peers

        result["ceilings"]["torch"], result["torch"] = peers.ceilings(precision), {}
        say("ceilings of PyTorch")
        for way in ("eager", "compile"):
            step = peers.training_step(CONFIGS[name], batch, precision, compiled=way == "compile")
            first, seconds, _ = peers.repeated(step, repeats)
            result["torch"][way] = {"first_seconds": first, "seconds": spread(seconds)}
            keep(result)
            say(f"PyTorch, {way}")
    return result


def table(result: dict[str, Any]) -> str:
    """The figures in lines."""
    about, mine, top = result["about"], result["jaxdiff"], result["ceilings"]["jax"]
    batch, median = about["batch"], mine["seconds"]["median"]
    lines = [
        f"{about['network']}, {mine['parameters']:,} parameters, {about['precision']}, batch {batch}, "
        f"{about['hardware']}",
        f"{'':18}{'images/s':>10}{'ms a step':>11}{'quartiles':>18}{'of ours':>9}",
    ]
    for name, found in {"jaxdiff": mine, **result.get("torch", {})}.items():
        each = {key: 1e3 * value for key, value in found["seconds"].items()}
        quartiles = f"{each['q1']:.1f}-{each['q3']:.1f}"
        ratio = found["seconds"]["median"] / median
        lines.append(
            f"{name:18}{1e3 * batch / each['median']:>10.1f}{each['median']:>11.1f}{quartiles:>18}{ratio:>9.2f}"
        )
    rate = mine["model_flops"] / median
    lines += [
        f"traced in {mine['lower_seconds']:.1f} s, compiled in {mine['compile_seconds']:.1f} s; "
        f"{mine['memory_bytes'] / 1e6:.0f} MB at the peak",
        f"the step takes {median / mine['forward_seconds']['median']:.2f} forward passes; the input pipeline "
        f"{100 * mine['input_seconds']['median'] / median:.1f} % of a step, beside it",
        f"{rate / 1e9:.1f} Gflop/s: {100 * rate / top['product']:.0f} % of a matrix product's, "
        f"{100 * rate / top['convolution']:.0f} % of a convolution's",
    ]
    if "torch" in result:
        other = result["ceilings"]["torch"]
        lines.append(
            f"PyTorch here: {other['product'] / 1e9:.0f} Gflop/s (matrix product), {other['convolution'] / 1e9:.0f} "
            f"(convolution); ours {top['product'] / 1e9:.0f}, {top['convolution'] / 1e9:.0f}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=CONFIGS, default="unet-small", help="%(default)s")
    parser.add_argument("--batch", type=int, default=16, help="%(default)s")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="%(default)s")
    parser.add_argument("--flash", action="store_true", help="attend by cuDNN's kernel; on a GPU, in bfloat16")
    parser.add_argument("--peer", choices=("torch", "none"), help="default: torch where it is installed")
    parser.add_argument("--repeats", type=int, default=7, help="timed steps after two that warm up; %(default)s")
    parser.add_argument("--json", type=Path, help="where to write the figures; nowhere by default")
    arguments = parser.parse_args()
    if min(arguments.batch, arguments.repeats) < 1 or arguments.batch > PICTURES:
        parser.error(f"--repeats must be at least 1 and --batch in 1..{PICTURES}")
    if arguments.flash and arguments.precision != "bfloat16":
        parser.error("--flash needs --precision bfloat16")
    peer = racing.with_peer(parser, arguments.peer)
    about: dict[str, Any] = {"network": arguments.network, "batch": arguments.batch, "precision": arguments.precision}
    about["flash"] = arguments.flash
    about |= results_file.about(peer=peer)
    keep = lambda found: results_file.write(arguments.json, {"about": about, **found})
    options = arguments.network, arguments.precision, arguments.batch, arguments.repeats, peer, arguments.flash
    print(table({"about": about, **measure(*options, keep)}))


if __name__ == "__main__":
    main()
