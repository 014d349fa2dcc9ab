"""What the parts of networks reach alone: convolutions by channels, linear maps, attention, and a DiT's block.

    python -m benchmarks.parts
    python -m benchmarks.parts --precision bfloat16 --batch 64 --json parts.json

A network that is far from the ceilings of its device is slow in some of its parts; this says in which. Each is a
program of its own on random numbers: forwards, and forwards and back with the gradients of all that goes in. Compiled,
warmed up by two calls and waited for; medians of `--repeats` calls with their quartiles. Cores busy are processor
seconds over seconds, on a CPU alone. JAX, Flax and Optax are enough.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks import ceilings, results_file
from benchmarks.ceilings import SIDE
from benchmarks.progress import Progress
from benchmarks.timing import compiled, repeated, spread
from jaxdiff.networks.attention import attend
from jaxdiff.networks.block import Block, modulate
from jaxdiff.networks.convolution import convolve

CHANNELS = ((64, 64), (128, 64), (512, 64), (96, 96), (112, 112), (64, 256), (128, 128), (256, 256))
TOKENS, WIDTH, HEADS = 256, 384, 6  # of a DiT-S/2 on latents of 256 x 256 pixels
Part = tuple[Callable[..., jax.Array], tuple[Any, ...]]


def parts(batch: int, dtype: str) -> dict[str, Part]:
    """Functions with their arguments, all of which have gradients."""
    keys = iter(jax.random.split(jax.random.key(0), 64))
    draw = lambda *shape: jax.random.normal(next(keys), shape, dtype)
    convolution = lambda x, kernel: convolve(x, kernel, (1, 1), ((1, 1), (1, 1)))
    heads = lambda: draw(batch, TOKENS, HEADS, WIDTH // HEADS)
    found: dict[str, Part] = {
        f"3 x 3 convolution, {i} to {o} channels": (convolution, (draw(batch, SIDE, SIDE, i), draw(3, 3, i, o)))
        for i, o in CHANNELS
    }
    for i, o in ((WIDTH, 4 * WIDTH), (4 * WIDTH, WIDTH)):
        found[f"linear map, {i} to {o} channels"] = jnp.matmul, (draw(batch * TOKENS, i), draw(i, o))
    found["attention, `networks.attention.attend`"] = attend, (heads(), heads(), heads())
    found["attention, `jax.nn.dot_product_attention`"] = jax.nn.dot_product_attention, (heads(), heads(), heads())
    block = Block(WIDTH, HEADS, hidden=4 * WIDTH, qk_norm=False, dtype=dtype, rngs=nnx.Rngs(0))
    definition, state = nnx.split(block)
    calls: dict[str, Callable[[Block, jax.Array, jax.Array], jax.Array]] = {
        "block of a DiT": lambda block, h, rows: block(h, rows),
        "its attention and the norm": lambda block, h, rows: (
            h + rows[:, None] * block.attention(modulate(h, rows[:, None], rows[:, None]))
        ),
        "its MLP and the norm": lambda block, h, rows: (
            h + rows[:, None] * block.last(jax.nn.gelu(block.first(modulate(h, rows[:, None], rows[:, None]))))
        ),
    }
    for name, call in calls.items():
        run = lambda state, h, rows, call=call: call(nnx.merge(definition, state), h, rows)
        found[name] = run, (state, draw(batch, TOKENS, WIDTH), draw(batch, WIDTH))
    return found


def measure_part(part: Part, repeats: int) -> dict[str, Any]:
    """`{seconds, flops, cores}`, and `{gradient_seconds, gradient_flops}` of a call forwards and back."""
    function, args = part
    forward = compiled(jax.jit(function), *args)
    out = forward.run(*args)

    def with_gradient(out: jax.Array, *args: Any) -> Any:
        value, back = jax.vjp(function, *args)
        return value, back(out)

    back = compiled(jax.jit(with_gradient), out, *args)
    wall, busy = time.perf_counter(), time.process_time()
    seconds = repeated(lambda: forward.run(*args), repeats)
    cores = (time.process_time() - busy) / (time.perf_counter() - wall)
    found = {"seconds": spread(seconds), "flops": forward.flops, "gradient_flops": back.flops}
    found["gradient_seconds"] = spread(repeated(lambda: back.run(out, *args), repeats))
    return found | ({"cores": cores} if jax.default_backend() == "cpu" else {})


def measure(batch: int, precision: str, repeats: int) -> dict[str, Any]:
    """`{ceilings, parts}`, figures of each part by its name."""
    given = parts(batch, precision)
    say = Progress("parts", len(given) + 1)
    result: dict[str, Any] = {"ceilings": ceilings.measure(precision), "parts": {}}
    say("ceilings of the device")
    for name, part in given.items():
        result["parts"][name] = measure_part(part, repeats)
        say(name)
    return result


def table(result: dict[str, Any]) -> str:
    """Markdown."""
    lines = ["| part | ms | Gflop/s | cores busy | forwards and back, ms | Gflop/s |", "|---|---|---|---|---|---|"]

    def cells(seconds: dict[str, float], flops: float) -> str:
        q1, median, q3 = (1e3 * seconds[name] for name in ("q1", "median", "q3"))
        return f"{median:.3g} ({q1:.3g}-{q3:.3g}) | {flops / median / 1e6:.0f}"

    for name, found in result["parts"].items():
        cores = f"{found['cores']:.1f}" if "cores" in found else "-"
        there, back = (cells(found[f"{kind}seconds"], found[f"{kind}flops"]) for kind in ("", "gradient_"))
        lines.append(f"| {name} | {there} | {cores} | {back} |")
    top, about = result["ceilings"], result["about"]
    what = f"{about['precision']}, batch {about['batch']}, {SIDE} x {SIDE} pixels or {TOKENS} tokens"
    reach = f"{top['product'] / 1e9:.0f} Gflop/s, a convolution {top['convolution'] / 1e9:.0f}"
    return "\n".join(
        [*lines, "", f"{what}. A large matrix product reaches {reach}, a copy {top['copy'] / 1e9:.1f} GB/s."]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8, help="%(default)s")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="%(default)s")
    parser.add_argument("--repeats", type=int, default=20, help="timed calls after two that warm up; %(default)s")
    parser.add_argument("--json", type=Path, help="where to write the figures; nowhere by default")
    arguments = parser.parse_args()
    if min(arguments.batch, arguments.repeats) < 1:
        parser.error("--batch and --repeats must be at least 1")
    about = {key: getattr(arguments, key) for key in ("batch", "precision", "repeats")} | results_file.about()
    result = {"about": about, **measure(arguments.batch, arguments.precision, arguments.repeats)}
    print(table(result))
    results_file.write(arguments.json, result)


if __name__ == "__main__":
    main()
