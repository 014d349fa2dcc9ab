"""How long a compiled program takes: compilation apart, warmed up, every call blocked on, median and quartiles."""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax

from benchmarks.flops import flops

WARM_UP = 2


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled function and what its compilation took and says.

    Attributes:
        run: the program, called with the arrays that it was compiled for.
        lower_seconds, compile_seconds: tracing to StableHLO, and XLA.
        flops: of one call's products and convolutions, see `benchmarks.flops`.
        bytes: of one call, as the compiler counts them after fusion.
        memory: bytes of arguments, results and temporaries together, at their peak.
    """

    run: Callable[..., Any]
    lower_seconds: float
    compile_seconds: float
    flops: float
    bytes: float
    memory: int


def compiled(function: Any, *args: Any, **kwargs: Any) -> Program:
    """`function`, which `jax.jit` has wrapped, compiled for these arguments; static ones are not passed to `run`."""
    began = time.perf_counter()
    trace = function.trace(*args, **kwargs)
    lowered = trace.lower()
    traced = time.perf_counter()
    program = lowered.compile()
    done = time.perf_counter()
    cost, memory = program.cost_analysis() or {}, program.memory_analysis()
    parts = ("argument", "output", "temp")
    size = sum(getattr(memory, f"{part}_size_in_bytes") for part in parts) if memory else 0
    return Program(
        run=program,
        lower_seconds=traced - began,
        compile_seconds=done - traced,
        flops=flops(trace.jaxpr),
        bytes=float(cost.get("bytes accessed", 0.0)),
        memory=size - (memory.alias_size_in_bytes if memory else 0),
    )


def repeated(call: Callable[[], Any], repeats: int, warm_up: int = WARM_UP) -> list[float]:
    """Seconds of each of `repeats` calls after `warm_up` others; what a call returns is waited for."""
    seconds = []
    for _ in range(warm_up + repeats):
        began = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - began)
    return seconds[warm_up:]


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles; of fewer than two values the value itself."""
    if len(values) < 2:
        return dict.fromkeys(("q1", "median", "q3"), values[0])
    return dict(zip(("q1", "median", "q3"), statistics.quantiles(values, n=4, method="inclusive"), strict=True))
