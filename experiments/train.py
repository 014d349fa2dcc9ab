"""Train a recipe: `python -m experiments.train RECIPE [--out DIR] [--resume | --overwrite] [--field value ...]`.

`run(recipe, batches)` is the same loop for any iterator of batches `{x0, cond?, index?}`. This module imports neither
TensorFlow Datasets nor Grain nor the command line: those come in with `experiments.data` and `main`.
"""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from experiments import report, run_directory
from experiments.checkpoint import Checkpoints
from experiments.errors import UserError
from experiments.hardware import describe_devices
from experiments.logging import Log
from experiments.model import DataInfo, Model
from experiments.profiling import Profiler
from experiments.recipe import Recipe
from experiments.signals import Interrupted, stop_request
from experiments.stream import Batch, Stream
from jaxdiff import TrainState, make_step, parallel


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
    resume: bool = False,
    overwrite: bool = False,
    devices: Sequence[jax.Device] | None = None,
    profile: bool = False,
) -> Result:
    """Train `recipe` on `batches`, and leave a run directory at `out`.

    Args:
        recipe: what to train; its `data` is not read here.
        batches: dicts of arrays: `x0` (B, H, W, C) in [-1, 1], `cond` (B,) labels unless there are none, and `index`
            (B,), positions in the shuffled stream (counted here if missing). See `Stream` for how they are resumed.
        out: the run directory, local or gs://; None writes nothing.
        info: shape and classes of the data; by default those of the first batch, with classes up to its largest label.
        resume: go on from the newest checkpoint in `out`.
        overwrite: delete the run in `out` first.
        devices: local devices, all by default; several train data-parallel with `jax.pmap`.
        profile: write a JAX trace of ten steps under `out`.

    Raises:
        UserError: `out` holds a run, the devices do not divide the batch, or the recipe does not fit the data.
        Interrupted: Ctrl-C or SIGTERM came; a checkpoint was saved.
    """
    out = None if out is None else epath.Path(out)
    devices = list(jax.local_devices() if devices is None else devices)
    stream = Stream(batches)
    model = Model(recipe, info or _describe(stream.first))
    _check(recipe, stream.first, devices)
    if out is not None:
        run_directory.prepare(out, recipe, model.info, resume=resume, overwrite=overwrite)

    keeper = contextlib.nullcontext() if out is None else Checkpoints(out / "checkpoints", recipe.keep)
    with stop_request() as stop, keeper as checkpoints:
        state, start, pending = model.fresh_state(), 0, []
        if resume and checkpoints is not None and checkpoints.steps():
            state, meta, start = checkpoints.restore(jax.eval_shape(lambda: state))
            pending = meta["pending"]
            stream.set_state(meta["stream"])

        def save(step: int) -> None:
            if checkpoints is not None:
                meta = {"pending": log.pending(), "stream": stream.get_state()}
                checkpoints.save(step, state, meta, log.recent_loss())

        update, key = _compile(model, devices), jax.random.key(recipe.seed)
        if len(devices) > 1:
            state, key = parallel.replicate((state, key), devices)
        # Forced CPU devices starve one another when steps with collectives pile up.
        wait = len(devices) > 1 and devices[0].platform == "cpu"
        rate = jax.jit(recipe.optimizer.rate(recipe.steps))
        profiler = Profiler(out / "profile" if profile and out is not None else None, start + 5, steps=10)
        compile_seconds, began = 0.0, time.perf_counter()
        with Log(out, every=recipe.log_every, steps=recipe.steps, start=start, pending=pending) as log:
            for step in range(start, recipe.steps):
                profiler.before(step)
                state, metrics = update(state, key, _numbered(next(stream), step))
                if wait or step == start:
                    jax.block_until_ready(metrics)
                if step == start:
                    compile_seconds, began = time.perf_counter() - began, time.perf_counter()
                    log.start_clock(recipe.batch_size)
                    print(_first_line(model, state, devices, compile_seconds, start), file=sys.stderr, flush=True)
                log.add({**metrics, "learning_rate": rate(step)})
                profiler.after(step, metrics)
                last = step + 1 == recipe.steps
                if stop and not last:
                    save(step + 1)
                    raise Interrupted(f"stopped after step {step + 1} of {recipe.steps}, saved; go on with --resume")
                if last or (step + 1) % recipe.checkpoint_every == 0:
                    save(step + 1)
        jax.block_until_ready(state)

    seconds = time.perf_counter() - began
    summary = {
        "steps": recipe.steps,
        "parameters": _count(state.params),
        "loss": log.rows[-1]["loss"] if log.rows else None,
        "seconds": round(seconds, 2),
        "compile_seconds": round(compile_seconds, 2),
        "images_per_second": round((recipe.steps - start - 1) * recipe.batch_size / max(seconds, 1e-9), 1),
        "hardware": describe_devices(devices),
    }
    if out is not None:
        report.after_training(out, model, state.ema, stream.first["x0"], log.rows, summary)
    return Result(state, model, log.rows, summary)


def _compile(model: Model, devices: Sequence[jax.Device]) -> Callable[..., Any]:
    """The training step: jitted for one device, `pmap`ped over several. The state is donated."""
    recipe, classes = model.recipe, model.info.classes
    step = make_step(
        recipe.process,
        model.apply,
        model.optimizer,
        times=recipe.times,
        weighting=recipe.weighting,
        ema=recipe.ema,
        null_cond=np.int32(len(classes)) if classes else None,
        cond_dropout=recipe.cond_dropout if classes else 0.0,
    )
    return parallel.pmap_step(step, devices) if len(devices) > 1 else jax.jit(step, donate_argnums=0)


def _describe(batch: Batch) -> DataInfo:
    """Shape and classes of arrays that came without a description."""
    classes = 1 + int(np.max(batch["cond"])) if batch.get("cond") is not None else 0
    return DataInfo(shape=tuple(batch["x0"].shape[1:]), classes=tuple(map(str, range(classes))), name="arrays")


def _check(recipe: Recipe, batch: Batch, devices: Sequence[jax.Device]) -> None:
    size = len(batch["x0"])
    if size * jax.process_count() != recipe.batch_size:
        raise UserError(
            f"the recipe's batch_size is {recipe.batch_size}, but the batches have {size} examples; make them agree"
        )
    if size % len(devices):
        raise UserError(
            f"{len(devices)} devices must divide the batch, got a batch of {size}; "
            f"use --batch-size {size + -size % len(devices)}, or fewer --devices"
        )


def _devices(wanted: int | None) -> list[jax.Device]:
    """The first `wanted` local devices, or all of them."""
    found = jax.local_devices()
    if wanted is not None and not 1 <= wanted <= len(found):
        raise UserError(f"--devices {wanted} were asked for, but this machine has {len(found)}; use 1 to {len(found)}")
    return found[:wanted]


def _numbered(batch: Batch, step: int) -> Batch:
    """The batch with each example's position in the stream, for noise that does not depend on the layout."""
    if "index" in batch:
        return batch
    rows = len(batch["x0"])
    position = jax.process_index() + jax.process_count() * np.arange(rows)
    return {**batch, "index": (step * rows * jax.process_count() + position).astype(np.int32)}


def _count(params: Any) -> int:
    return sum(p.size for p in jax.tree.leaves(params))


def _first_line(model: Model, state: TrainState, devices: Sequence[jax.Device], seconds: float, start: int) -> str:
    resumed = f", resumed at step {start}" if start else ""
    return (
        f"{describe_devices(devices)}, {type(model.recipe.network).__name__} with {_count(state.params):,} parameters, "
        f"compiled in {seconds:.1f} s{resumed}"
    )


def main(argv: Sequence[str] | None = None) -> None:
    from experiments.cli import train_arguments
    from experiments.data import batches

    arguments, recipe = train_arguments(argv)
    devices = _devices(arguments.devices)
    images = recipe.data.load(lambda message: print(message, file=sys.stderr))
    iterator = batches(
        images.train,
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
        info=DataInfo.of(images),
        resume=arguments.resume,
        overwrite=arguments.overwrite,
        devices=devices,
        profile=arguments.profile,
    )
    print(f"trained {recipe.steps} steps in {result.summary['seconds']:.0f} s: {arguments.out}/report.html")


if __name__ == "__main__":
    from experiments.cli import program

    program(main)
