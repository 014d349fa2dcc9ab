"""Checkpoints: the only place that knows Orbax.

A checkpoint holds the training state and, in its JSON, whatever else a run needs to go on (position of the data,
unwritten metrics). It is saved in the background and becomes visible at once or not at all. Orbax loads flipped bytes
as wrong numbers without a word, so a list of CRC-32 sums of its files is kept beside it and compared before it is read.
"""

import json
import logging
import math
import zlib
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import SingleDeviceSharding

from experiments.errors import UserError

logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax narrates every save


class Checkpoints:
    """The checkpoints under `root`: the newest `keep` and the one of the lowest loss."""

    def __init__(self, root: epath.PathLike, keep: int = 2):
        self.root = _absolute(root)
        self._sums = self.root.parent / f"{self.root.name}-checksums"
        managers = ocp.checkpoint_managers
        best = managers.BestN(get_metric_fn=lambda metrics: metrics["loss"], reverse=True, n=1)
        self._manager = ocp.CheckpointManager(
            self.root,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=managers.AnyPreservationPolicy([managers.LatestN(keep), best]),
                cleanup_tmp_directories=True,
            ),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._seal()
        finally:
            self._manager.close()  # without it, a normal exit loses the save in flight

    def steps(self) -> list[int]:
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: Any, meta: Mapping[str, Any], loss: float) -> None:
        """Start saving; returns before the bytes are on disk. A step that is already there is left alone."""
        self._seal()
        if step in self._manager.all_steps():
            return
        arguments = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(dict(meta)))
        # A loss that is not a number must never be the best one.
        self._manager.save(step, args=arguments, metrics={"loss": loss if math.isfinite(loss) else 1e30})

    def restore(self, like: Any, step: int | None = None) -> tuple[Any, dict[str, Any], int]:
        """`(state, meta, step)`, the newest checkpoint by default.

        Args:
            like: the state's structure, `jax.ShapeDtypeStruct`s with or without shardings.
            step: which checkpoint.

        Raises:
            UserError: no such checkpoint, or one that is damaged or belongs to another recipe.
        """
        steps = self.steps()
        if not steps or (step is not None and step not in steps):
            wanted = "a checkpoint" if step is None else f"a checkpoint of step {step}"
            raise UserError(f"needed {wanted} in {self.root}, found {steps or 'none'}; train the run first")
        step = steps[-1] if step is None else step
        others = [s for s in steps if s != step] or "none"
        advice = f"the other checkpoints here are of steps {others} (--step), or train anew"
        if wrong := self._changed(step):
            raise UserError(f"checkpoint {step} in {self.root} is damaged: {wrong} is not as it was written; {advice}")
        try:
            arguments = ocp.args.Composite(
                state=ocp.args.StandardRestore(jax.tree.map(_placed, like)), meta=ocp.args.JsonRestore()
            )
            restored = self._manager.restore(step, args=arguments)
        except Exception as error:  # Orbax, TensorStore and JSON each raise their own kinds
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
            raise UserError(
                f"checkpoint {step} in {self.root} is damaged or belongs to another recipe ({reason}); {advice}"
            ) from error
        return restored["state"], restored["meta"], step

    def _seal(self) -> None:
        """Wait for the save in flight, and write down the sums of checkpoints that have none yet."""
        self._manager.wait_until_finished()
        steps = self._manager.all_steps()
        if steps:
            self._sums.mkdir(parents=True, exist_ok=True)
        for step in steps:
            if not self._sum_file(step).exists():
                self._sum_file(step).write_text(json.dumps(_sums(self.root / str(step))))
        for file in self._sums.glob("*.json") if steps else ():
            if int(file.stem) not in steps:
                file.unlink()

    def _changed(self, step: int) -> str | None:
        """The first file of a checkpoint that is missing or other than it was written."""
        if not self._sum_file(step).exists():
            return None  # the run was killed between the checkpoint and its sums
        written, found = json.loads(self._sum_file(step).read_text()), _sums(self.root / str(step))
        return next((name for name in written if written[name] != found.get(name)), None)

    def _sum_file(self, step: int) -> epath.Path:
        return self._sums / f"{step}.json"


def _absolute(path: epath.PathLike) -> epath.Path:
    """Orbax refuses relative paths; an object store's are absolute as they are."""
    return epath.Path(path) if "://" in str(path) else epath.Path(path).absolute()


def _placed(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(leaf, "sharding", None) or SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _sums(folder: epath.Path) -> dict[str, int]:
    """CRC-32 of every file below `folder`, by its path in it."""
    sums, waiting = {}, [folder]
    while waiting:
        for path in waiting.pop().iterdir():
            if path.is_dir():
                waiting.append(path)
            else:
                sums[str(path.relative_to(folder))] = zlib.crc32(path.read_bytes())
    return dict(sorted(sums.items()))
