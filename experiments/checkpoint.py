"""Checkpoints: the only place that knows Orbax.

A checkpoint holds the training state and, in its JSON, whatever else a run needs to go on (position of the data,
unwritten metrics). It is saved in the background and becomes visible at once or not at all. Orbax loads flipped bytes
as wrong numbers without a word, so each checkpoint also holds the CRC-32 sums of its files, which become visible
together with it and are compared before it is read.

With several processes all of them save and restore together; process 0 writes and compares the sums, and all of them
hear its verdict. The file system must be one that all of them see.
"""

import contextlib
import errno
import json
import logging
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import SingleDeviceSharding

from experiments import checksums, distributed
from experiments.errors import UserError
from experiments.retention import Retention

# Orbax narrates every save, and its failures with tracebacks.
logging.getLogger("absl").setLevel(logging.ERROR)
logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)

_UNSUMMED = "_CHECKPOINT_METADATA"  # Orbax adds the time to it at the very end, and restores nothing from it
_FULL = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}


class Checkpoints:
    """The checkpoints under `root`. Opening and reading change nothing there; the first `save` clears away what a
    killed run left half-written.

    Args:
        root: a directory, local or gs://.
        keep: how many of the newest to keep, beside the one of the lowest loss; None keeps all.
        keep_every: also keep those of steps that it divides.

    Raises:
        ValueError: `keep` or `keep_every` below 1.
    """

    def __init__(self, root: epath.PathLike, keep: int | None = 2, *, keep_every: int | None = None):
        for name, value in {"keep": keep, "keep_every": keep_every}.items():
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, or None, got {value}")
        self.root = _absolute(root)
        self._retention = Retention(self.root, keep, keep_every)
        self._saving: int | None = None
        self._writing = False
        self._manager = self._open()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.wait()
        finally:
            self._manager.close()  # without it, a normal exit loses the save in flight

    def steps(self) -> list[int]:
        """The steps of finished checkpoints; a save in flight is not among them."""
        return sorted(step for step in self._manager.all_steps() if step != self._saving)

    def save(self, step: int, state: Any, meta: Mapping[str, Any], loss: float) -> None:
        """Start saving; returns before the bytes are on disk. A step that is already there is left alone.

        Args:
            step: optimiser updates so far.
            state: a tree of arrays, however they lie on the devices of all processes.
            meta: anything that JSON holds.
            loss: decides which checkpoint is the best one; process 0's does.

        Raises:
            UserError: this save or the one before it, which ran in the background, could not be written.
        """
        self.wait()
        if step in self._manager.all_steps():
            return
        loss = float(distributed.from_first(str(float(loss))))  # the others have not read the rows of an earlier start
        self._retention.losses[step] = loss = loss if math.isfinite(loss) else math.inf
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            meta=ocp.args.JsonSave(dict(meta)),
            loss=ocp.args.JsonSave({"loss": loss if math.isfinite(loss) else None}),
        )
        self._saving = step
        with self._explained():
            if not self._writing:
                self._manager.close()
                self._writing = True
                self._manager = self._open()
            self._manager.save(step, args=arguments, force=True)

    def restore(self, like: Any, step: int | None = None) -> tuple[Any, dict[str, Any], int]:
        """`(state, meta, step)`, the newest checkpoint by default.

        Args:
            like: the state's structure, `jax.ShapeDtypeStruct`s with or without shardings (without: on one device). It
                need not lie on the devices, or be partitioned, as it was when it was saved.
            step: which checkpoint.

        Raises:
            UserError: no such checkpoint, or one that is damaged or belongs to another recipe.
        """
        self.wait()
        chosen = ""
        if jax.process_index() == 0:
            try:
                chosen = json.dumps(self._chosen(step))
            except Exception as error:  # every process must hear of it, or the others would wait for ever
                chosen = json.dumps([0, f"cannot read the checkpoints in {self.root}: {_reason(error)}"])
        step, problem = json.loads(distributed.from_first(chosen))
        assert step is not None
        if problem:
            raise UserError(problem)
        try:
            arguments = ocp.args.Composite(
                state=ocp.args.StandardRestore(jax.tree.map(_placed, like)), meta=ocp.args.JsonRestore()
            )
            restored = self._manager.restore(step, args=arguments)
        except Exception as error:  # Orbax, TensorStore and JSON each raise their own kinds
            raise UserError(
                f"checkpoint {step} in {self.root} is damaged or belongs to another recipe ({_reason(error)}); "
                f"{self._advice(step)}"
            ) from error
        return restored["state"], restored["meta"], step

    def _open(self) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(
            read_only=not self._writing,
            cleanup_tmp_directories=self._writing,
            preservation_policy=self._retention,
            async_options=ocp.options.AsyncOptions(post_finalization_callback=self._seal),
            lightweight_initialize=True,  # a damaged checkpoint must not keep one from the others
            # Two of these may save at once, and their processes must not wait for one another's.
            multiprocessing_options=ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=self.root.name),
        )
        return ocp.CheckpointManager(self.root, options=options)

    def wait(self) -> None:
        """Wait for the save in flight.

        Raises:
            UserError: it could not be written.
        """
        with self._explained():
            self._manager.wait_until_finished()
        self._saving = None

    def _seal(self) -> None:
        """Write the sums. Orbax calls this in process 0, all files being written and the checkpoint still invisible."""
        final = self.root / str(self._saving)
        hidden = self.root / f"{self._saving}.orbax-checkpoint-tmp"  # an object store has none
        checksums.write(hidden if hidden.exists() else final, ignored={_UNSUMMED})

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns what the file system refused into one message."""
        try:
            yield
        except Exception as error:
            number = _errno(error)
            if number is None:
                raise
            failed, self._saving = self._saving, None
            self._manager.reload()
            intact = self._intact(self.steps()[::-1])
            rest = "there is no earlier one and --resume begins anew"
            if intact:
                rest = f"checkpoint {intact[0]} is intact and --resume goes on from it"
            remedy = "free some space" if number in _FULL else "mend that"
            raise UserError(
                f"could not save checkpoint {failed} in {self.root}: {os.strerror(number)}; {remedy}; {rest}"
            ) from error

    def _chosen(self, step: int | None) -> tuple[int, str]:
        """The step to restore, and what speaks against it."""
        steps = self.steps()
        if not steps or (step is not None and step not in steps):
            wanted = "a checkpoint" if step is None else f"a checkpoint of step {step}"
            return 0, f"needed {wanted} in {self.root}, found {_few(steps)}; train the run first"
        step = steps[-1] if step is None else step
        if wrong := checksums.changed(self.root / str(step)):
            return step, f"checkpoint {step} in {self.root} is damaged: {wrong}; {self._advice(step)}"
        return step, ""

    def _advice(self, step: int) -> str:
        others = self._intact([other for other in self.steps() if other != step])
        if not others:
            return "there is no other checkpoint here: train anew"
        return (
            f"the intact ones here are of steps {_few(others)}: name one by --step, or move {self.root / str(step)} "
            "away and go on from the newest with --resume"
        )

    def _intact(self, steps: Sequence[int]) -> list[int]:
        return [step for step in steps if not checksums.changed(self.root / str(step))]


def _absolute(path: epath.PathLike) -> epath.Path:
    """Orbax refuses relative paths; an object store's are absolute as they are."""
    return epath.Path(path) if "://" in str(path) else epath.Path(path).absolute()


def _few(steps: Sequence[int]) -> str:
    """The newest of them, to be read."""
    return f"[{'..., ' * (len(steps) > 10)}{', '.join(map(str, steps[-10:]))}]" if steps else "none"


def _placed(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(leaf, "sharding", None) or SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _errno(error: BaseException) -> int | None:
    """The error number of a failure of the file system; TensorStore writes it into its text."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    found = re.search(r"os_error_code='(\d+)'", str(error))
    return int(found[1]) if found else None


def _reason(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
