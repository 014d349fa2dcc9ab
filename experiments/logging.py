"""What a run writes while it trains: a progress bar, one JSON row and TensorBoard scalars every so many steps."""

import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from tqdm import tqdm

from experiments.errors import UserError

Row = dict[str, float]


class Diverged(UserError):
    """A loss or gradient that is not finite."""


class Log:
    """Collects the metrics of each step on the device and fetches them every `every` steps.

    A row is fetched after the next step was dispatched: while Python waits for its numbers the device has work.

    Args:
        out: the run's directory; None keeps everything in memory.
        steps: length of the run, for the bar.
        start: step at which the run goes on; rows after it are dropped, they will be written again.
        pending: metrics of steps whose row was not complete when the run stopped.
        waited: seconds spent waiting for data so far.
        quiet: no progress bar.
    """

    def __init__(
        self,
        out: epath.Path | None,
        *,
        every: int,
        steps: int,
        start: int = 0,
        pending: Sequence[Row] = (),
        waited: Callable[[], float] = lambda: 0.0,
        quiet: bool = False,
    ):
        self.rows: list[Row] = []
        self.skipped = 0
        self._out, self._every, self._step, self._waited = out, every, start, waited
        self._fetched: list[Row] = list(pending)
        self._pending: list[Any] = []
        self._due: list[Any] = []
        self._file = self._events = None
        if out is not None:
            path = out / "metrics.jsonl"
            if start and path.exists():
                self.rows = [row for row in read_rows(path) if row["step"] <= start]
                self.skipped = int(sum(row.get("skipped", 0) for row in self.rows))
            if path.exists():  # replaced as a whole: a kill must not lose the rows
                partial = path.with_name(f"{path.name}.partial")
                partial.write_text("".join(json.dumps(row) + "\n" for row in self.rows))
                partial.replace(path)
            if _is_local(out):
                self._file = path.open("a")
                self._events = _events(out / "tensorboard", start)
        self._bar = tqdm(
            total=steps, initial=start, unit="step", dynamic_ncols=True, file=sys.stderr, mininterval=0.5, disable=quiet
        )
        self.start_clock(0)

    def start_clock(self, images: int) -> None:
        """Count the rate of `images` a step from here on: after compilation."""
        self._images, self._since = images, (time.perf_counter(), self._step, self._waited())

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        if self._events is not None:
            self._events.close()
        if self._file is not None:
            self._file.close()

    def add(self, metrics: Any, steps: int = 1) -> None:
        """Record `steps` steps, of metrics with a leading axis where there are several.

        Raises:
            Diverged: a row that was due holds a number that is not finite.
        """
        self.flush()
        self._step += steps
        self._pending.append(metrics)
        self._bar.update(steps)
        if self._step % self._every == 0:
            jax.tree.map(lambda a: a.copy_to_host_async() if hasattr(a, "copy_to_host_async") else a, self._pending)
            self._due, self._pending = self._pending, []

    def flush(self) -> None:
        """Write the row that is due, if any."""
        if self._due:
            due, self._due = self._due, []
            self._write(self._fetched + self._numbers(due, self._step, self._fetched))
            self._fetched = []

    def pending(self) -> list[Row]:
        """Metrics of the steps since the last row, as numbers.

        Raises:
            Diverged: one of them is not finite.
        """
        self.flush()
        self._fetched += self._numbers(self._pending, self._step, self._fetched)
        self._pending = []
        return self._fetched

    def recent_loss(self) -> float:
        """The loss of the newest row, or of the steps since where there is none."""
        self.flush()
        if self.rows:
            return self.rows[-1]["loss"]
        steps = self.pending()
        return _mean([step["loss"] for step in steps]) if steps else float("inf")

    def _numbers(self, metrics: list[Any], last: int, before: list[Row]) -> list[Row]:
        """Steps up to `last`, one row each."""
        steps: list[Row] = []
        for step in jax.device_get(metrics):
            columns = {name: np.atleast_1d(value) for name, value in step.items()}
            steps += [{name: float(column[i]) for name, column in columns.items()} for i in range(_length(columns))]
        for i, step in enumerate(steps):
            broken = [name for name in ("loss", "grad_norm") if not math.isfinite(step.get(name, 0.0))]
            if broken and "skipped" not in step:
                previous = (before + steps[:i])[-1:] or self.rows[-1:]
                shown = ", ".join(f"{name} {value:.4g}" for name, value in (previous or [{}])[0].items())
                raise Diverged(
                    f"{' and '.join(broken)} of step {last - len(steps) + i + 1} not finite; "
                    f"the metrics before it: {shown or 'none'}"
                )
        return steps

    def _write(self, steps: list[Row]) -> None:
        now, waited, since = time.perf_counter(), self._waited(), self._since
        seconds = max(now - since[0], 1e-9)
        rate, wait = (self._step - since[1]) * self._images / seconds, min((waited - since[2]) / seconds, 1.0)
        self._since = (now, self._step, waited)
        means = {name: _mean([step[name] for step in steps]) for name in steps[0]}
        if "skipped" in means:
            means["skipped"] = sum(step["skipped"] for step in steps)
            self.skipped += int(means["skipped"])
        row = {"step": self._step, **means, "examples_per_second": round(rate, 1), "data_wait": round(wait, 3)}
        self.rows.append(row)
        shown = {"loss": f"{row['loss']:.4f}", "examples/s": f"{rate:,.0f}"}
        shown |= {"waiting for data": f"{wait:.0%}"} if wait > 0.1 else {}
        shown |= {"skipped": f"{self.skipped}"} if self.skipped else {}
        self._bar.set_postfix(shown, refresh=False)
        if self._file is not None:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        elif self._out is not None:
            # Object stores do not append: the whole file is small.
            (self._out / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in self.rows))
        if self._events is not None:
            for name, value in row.items():
                if name != "step":
                    self._events.add_scalar(f"train/{name}", value, self._step)


def _length(columns: dict[str, np.ndarray]) -> int:
    return len(next(iter(columns.values())))


def _mean(values: Sequence[float]) -> float:
    """Of the finite ones: a skipped step has no loss."""
    finite = [value for value in values if math.isfinite(value)]
    return float(np.mean(finite)) if finite else float("inf")


def _events(path: epath.Path, start: int) -> Any:
    """A TensorBoard writer, or None with a note where the package is missing: the same rows are in metrics.jsonl."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        print("no TensorBoard events: tensorboardX is not installed", file=sys.stderr)
        return None
    return SummaryWriter(str(path), purge_step=start)


def read_rows(path: epath.Path) -> list[Row]:
    """The complete rows of a metrics file; a last line cut off by a crash is left out."""
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def _is_local(path: epath.Path) -> bool:
    return "://" not in str(path)
