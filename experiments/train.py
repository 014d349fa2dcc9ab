"""Train a recipe: `python -m experiments.train RECIPE [--out DIR] [--resume | --overwrite] [--field value ...]`.

`run(recipe, batches)` is the same loop for any iterator of batches `{x0, cond?, index?}`. This module imports neither
TensorFlow Datasets nor Grain nor the command line: those come in with `experiments.data` and `main`.
"""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from experiments import batches as batching
from experiments import distributed, report, run_directory
from experiments.checkpoint import Checkpoints
from experiments.hardware import choose_devices, describe_devices
from experiments.info import DataInfo
from experiments.latents import Codec, encoded
from experiments.logging import Diverged, Log
from experiments.model import Model
from experiments.placement import WHOLE, Placement, Split
from experiments.profiling import Profiler
from experiments.recipe import Recipe
from experiments.signals import Interrupted, stop_request
from experiments.snapshots import interval, open_snapshots
from experiments.stream import Batch, Stream, Watch
from jaxdiff import TrainState


@dataclasses.dataclass(frozen=True)
class Result:
    """What `run` returns: the final state, the model that draws samples with it, the logged rows and the summary."""

    state: TrainState
    model: Model
    rows: list[dict[str, float]]
    summary: dict[str, Any]


def run(
    recipe: Recipe,
    batches: Iterable[Batch],
    out: epath.PathLike | None = None,
    *,
    info: DataInfo | None = None,
    codec: Codec | None = None,
    resume: bool = False,
    overwrite: bool = False,
    devices: Sequence[jax.Device] | None = None,
    split: Split = WHOLE,
    profile: bool = False,
) -> Result:
    """Train `recipe` on `batches`, and leave a run directory at `out`.

    Args:
        recipe: what to train; its `data` is not read here.
        batches: dicts of arrays: `x0` (B, H, W, C) in [-1, 1], `cond` (B,) labels unless there are none, and `index`
            (B,), positions in the shuffled stream (counted here if missing). Of several processes each brings its
            share. See `Stream` for how they are resumed.
        out: the run directory, local or gs://; None writes nothing.
        info: shape and classes of the data; by default those of the first batch, with classes up to its largest label.
        codec: makes pictures of the data, where these are latents (see `experiments.latents.encoded`); kept in `out`.
        resume: go on from the newest checkpoint in `out`.
        overwrite: delete the run in `out` first.
        devices: all of this process by default, or of all processes; several train data-parallel with `jax.pmap`.
        split: divides the parameters among devices as well.
        profile: write a JAX trace of ten steps under `out`.

    Raises:
        UserError: `out` holds a run, the devices do not divide the batch, or the recipe does not fit the data.
        Diverged: a loss or gradient is not finite.
        Interrupted: Ctrl-C or SIGTERM came; a checkpoint was saved.
    """
    out = None if out is None else epath.Path(out)
    placement = Placement(jax.devices() if devices is None else devices, split)
    stream = Stream(batches)
    model = Model(recipe, info or batching.describe(stream.first), codec)
    batching.check(recipe, stream.first, placement.rows)
    if out is not None:
        folder = out
        prepare = lambda: run_directory.prepare(folder, recipe, model.info, resume=resume, overwrite=overwrite)
        distributed.first_does(prepare)
        if codec is not None:
            codec.save(out)

    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(stop_request())
        checkpoints = snapshots = None
        if out is not None:
            checkpoints = stack.enter_context(
                Checkpoints(out / "checkpoints", recipe.keep, keep_every=recipe.keep_every)
            )
            if recipe.averages:
                snapshots = stack.enter_context(open_snapshots(out))
        state, start, pending = None, 0, []
        if resume and checkpoints is not None and checkpoints.steps():
            state, meta, start = checkpoints.restore(placement.like(model.fresh_state))
            pending = meta["pending"]
            stream.set_state(meta["stream"])
            if snapshots is not None and start % interval(recipe) == 0:
                snapshots.save(start, state.averages, {}, 0.0)  # a kill may have come between the checkpoint and it
        state = placement.spread(placement.make(model.fresh_state) if state is None else state)

        count = recipe.steps_per_dispatch
        update, key = placement.compile(model.step(), batch_axis=0 if count == 1 else 1), placement.key(recipe.seed)
        # Forced CPU devices starve one another when steps with collectives pile up.
        wait = len(placement.devices) > 1 and placement.devices[0].platform == "cpu"
        profiler = Profiler(out / "profile" if profile and out is not None else None, start + 5 * count, steps=10)
        compile_seconds, began = 0.0, time.perf_counter()
        first = distributed.is_first()
        log = stack.enter_context(
            Log(
                out if first else None,
                every=recipe.log_every,
                steps=recipe.steps,
                start=start,
                pending=pending,
                waited=lambda: stream.waited,
                quiet=not first,
            )
        )
        stack.enter_context(Watch(stream))

        def save(step: int, state: TrainState) -> None:
            if checkpoints is None:
                return
            meta = {"pending": log.pending(), "stream": stream.get_state()}
            if not bool(_all_finite(state.params)):
                raise Diverged(f"parameters after step {step} not finite")
            checkpoints.save(step, state, meta, log.recent_loss())

        try:
            for step in range(start, recipe.steps, count):
                profiler.before(step)
                state, metrics = update(state, key, batching.take(stream, step, count))
                if wait or step == start:
                    jax.block_until_ready(metrics)
                if step == start:
                    compile_seconds, began = time.perf_counter() - began, time.perf_counter()
                    log.start_clock(recipe.batch_size)
                    if first:
                        line = _first_line(model, state, placement.devices, compile_seconds, start)
                        print(line, file=sys.stderr, flush=True)
                done = step + count
                log.add(metrics, count)
                profiler.after(done - 1, metrics)
                last = done == recipe.steps
                # Several processes agree on it when a row is written: a signal may have reached only one.
                asks = jax.process_count() == 1 or done % recipe.log_every == 0
                if asks and not last and (status := distributed.highest(stop.status if stop else 0)):
                    save(done, state)
                    message = f"stopped after step {done} of {recipe.steps}, saved; go on with --resume"
                    raise Interrupted(message, status)
                if snapshots is not None and (last or done % interval(recipe) == 0):
                    snapshots.save(done, state.averages, {}, 0.0)
                if last or done % recipe.checkpoint_every == 0:
                    save(done, state)
            log.flush()
        except Diverged as error:
            raise Diverged(f"{error}; {_after_divergence(checkpoints)}") from None
        jax.block_until_ready(state)

    seconds = time.perf_counter() - began
    summary = {
        "steps": recipe.steps,
        "parameters": _count(state.params),
        "loss": log.rows[-1]["loss"] if log.rows else None,
        "seconds": round(seconds, 2),
        "compile_seconds": round(compile_seconds, 2),
        "examples_per_second": round((recipe.steps - start - count) * recipe.batch_size / max(seconds, 1e-9), 1),
        "waited_for_data_seconds": round(stream.waited, 2),
        "hardware": describe_devices(placement.devices),
    }
    if recipe.nonfinite == "skip":
        summary["skipped"] = log.skipped
    if out is not None:
        folder, params = out, placement.gather(model.network(state.ema))
        examples, rows = stream.first, log.rows
        distributed.first_does(lambda: report.after_training(folder, model, params, examples, rows, summary))
    return Result(state, model, log.rows, summary)


@jax.jit
def _all_finite(params: Any) -> jax.Array:
    return jnp.all(jnp.stack([jnp.isfinite(p).all() for p in jax.tree.leaves(params)]))


def _after_divergence(checkpoints: Checkpoints | None) -> str:
    steps = []
    if checkpoints is not None:
        checkpoints.wait()
        steps = checkpoints.steps()
    kept = f"the checkpoint of step {steps[-1]} holds good parameters" if steps else "there is no checkpoint"
    return (
        f"{kept}; train anew with a lower --optimizer.learning-rate, or with --nonfinite skip to leave such steps out"
    )


def _count(params: Any) -> int:
    return sum(p.size for p in jax.tree.leaves(params))


def _first_line(model: Model, state: TrainState, devices: Sequence[jax.Device], seconds: float, start: int) -> str:
    resumed = f", resumed at step {start}" if start else ""
    return (
        f"{describe_devices(devices)}, {type(model.recipe.network).__name__} with {_count(state.params):,} parameters, "
        f"compiled in {seconds:.1f} s{resumed}"
    )


def main(argv: Sequence[str] | None = None) -> None:
    from experiments.cli import processes, train_arguments
    from experiments.data import batches
    from experiments.feed import feed

    distributed.start(processes(argv))  # before there is a recipe: its numbers may be arrays
    arguments, recipe = train_arguments(argv)
    devices = choose_devices(arguments.devices)
    data = distributed.all_do(lambda: recipe.data.load(lambda message: print(message, file=sys.stderr)))
    resumed = epath.Path(arguments.out) if arguments.resume else None
    info, examples, codec = distributed.all_do(lambda: encoded(recipe, *feed(recipe, data), resumed))
    iterator = batches(
        examples,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        flip=recipe.flip,
    )
    result = run(
        recipe,
        iterator,
        arguments.out,
        info=info,
        codec=codec,
        resume=arguments.resume,
        overwrite=arguments.overwrite,
        devices=devices,
        split=arguments.split,
        profile=arguments.profile,
    )
    if distributed.is_first():
        print(f"trained {recipe.steps} steps in {result.summary['seconds']:.0f} s: {arguments.out}/report.html")


if __name__ == "__main__":
    from experiments.cli import program

    program(main)
