"""What a run writes while it trains: a progress bar, one JSON row and TensorBoard scalars every so many steps."""

import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from tqdm import tqdm

Row = dict[str, float]


class Log:
    """Collects the metrics of each step on the device and fetches them every `every` steps.

    Args:
        out: the run's directory; None keeps everything in memory.
        steps: length of the run, for the bar.
        start: step at which the run goes on; rows after it are dropped, they will be written again.
        pending: metrics of steps whose row was not complete when the run stopped.
    """

    def __init__(self, out: epath.Path | None, *, every: int, steps: int, start: int = 0, pending: Sequence[Row] = ()):
        self.rows: list[Row] = []
        self._out, self._every, self._step = out, every, start
        self._pending: list[Any] = list(pending)
        self._file = self._events = None
        if out is not None:
            path = out / "metrics.jsonl"
            if start and path.exists():
                self.rows = [row for row in read_rows(path) if row["step"] <= start]
            path.write_text("".join(json.dumps(row) + "\n" for row in self.rows))
            if _is_local(out):
                self._file = path.open("a")
                self._events = _events(out / "tensorboard", start)
        self._bar = tqdm(total=steps, initial=start, unit="step", dynamic_ncols=True, file=sys.stderr, mininterval=0.5)
        self.start_clock(0)

    def start_clock(self, images: int) -> None:
        """Count the rate of `images` a step from here on: after compilation."""
        self._images, self._since = images, (time.perf_counter(), self._step)

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        if self._events is not None:
            self._events.close()
        if self._file is not None:
            self._file.close()

    def add(self, metrics: Any) -> None:
        """Record one step. Fetches from the device only when a row is due."""
        self._step += 1
        self._pending.append(metrics)
        self._bar.update()
        if self._step % self._every == 0:
            self._write()

    def pending(self) -> list[Row]:
        """Metrics of the steps since the last row, as numbers."""
        return [{name: float(value) for name, value in step.items()} for step in jax.device_get(self._pending)]

    def recent_loss(self) -> float:
        """The loss of the newest row, or of the steps since where there is none."""
        if self.rows:
            return self.rows[-1]["loss"]
        return float(np.mean([step["loss"] for step in self.pending()])) if self._pending else float("inf")

    def _write(self) -> None:
        steps = self.pending()
        now, since = time.perf_counter(), self._since
        rate = (self._step - since[1]) * self._images / max(now - since[0], 1e-9)
        self._pending, self._since = [], (now, self._step)
        means = {name: float(np.mean([step[name] for step in steps])) for name in steps[0]}
        row = {"step": self._step, **means, "images_per_second": round(rate, 1)}
        self.rows.append(row)
        self._bar.set_postfix({"loss": f"{row['loss']:.4f}", "images/s": f"{rate:,.0f}"}, refresh=False)
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
