"""Kill a training at chosen moments, resume it, and compare its end with that of an uninterrupted run, bit for bit.

    python tests/kill.py --kills 30 --seed 0 --out DIR

The training is `python -m experiments.train digits ... --resume` in a process of its own, killed by SIGKILL. What was
hit is judged afterwards, by what it has left:

    before any   no checkpoint, not even an unfinished one of its own
    save         an unfinished checkpoint of its own
    restore      it had begun to read a checkpoint and not finished
    elsewhere    anything else: starting, compiling, training, pruning

To see a restore from outside, the processes that are to be killed in one run the same program with a mark made before
and after `Checkpoints.restore`. After every kill the run must be readable; every start that follows is a resume.
"""

import argparse
import collections
import dataclasses
import os
import random
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
from etils import epath
from victim import Ended, Training

from experiments.checkpoint import Checkpoints
from experiments.errors import UserError
from experiments.loading import load_state, read_config
from experiments.logging import read_rows
from experiments.model import Model

SHARES = {"before any": 0.2, "save": 0.4, "restore": 0.14, "elsewhere": 0.26}


@dataclasses.dataclass(frozen=True)
class Result:
    """Kills by what they hit, resumes tried, those that failed, and in what the final states and losses differ."""

    kills: collections.Counter[str]
    resumes: int
    failures: list[str]
    differences: list[str]


class Killer:
    """Chooses the moments. `start` and `save` are about the seconds until the first save and those of a save."""

    def __init__(self, training: Training, seed: int, *, start: float, save: float):
        self._training, self._random = training, random.Random(seed)
        self._start, self._save, self._restore = start, save, 0.1
        self.kills: collections.Counter[str] = collections.Counter()

    def aim(self, targets: dict[str, int]) -> str | None:
        """Something that was not yet hit as often as it should be."""
        some = bool(self._training.saved())
        wanted = [kind for kind, count in targets.items() if self.kills[kind] < count]
        possible = [kind for kind in wanted if kind not in (["before any"] if some else ["restore"])]
        return "before any" if "before any" in possible else self._random.choice(possible) if possible else None

    def kill(self, aim: str) -> str:
        """Start, kill, and say what was hit.

        Raises:
            Ended: it ended before.
        """
        training = self._training
        with training.process(marked=aim == "restore") as process:
            began = time.monotonic()
            if aim == "before any":
                # As soon as there is a directory, then a configuration, then at any time until the first save.
                moments = [training.out.exists, (training.out / "config.json").exists]
                if (number := self.kills[aim]) < len(moments):
                    training.wait(process, moments[number])
                else:
                    training.wait(process, training.unfinished, self._some(self._start))
            elif aim == "save":
                for _ in range(1 if self._far() else self._random.randint(1, 3)):
                    training.wait(process, lambda: not training.unfinished())
                    training.wait(process, training.unfinished)
                training.wait(process, lambda: False, self._some(self._save))
            elif aim == "restore":
                training.wait(process, training.restoring)
                training.wait(process, lambda: False, self._some(self._restore))
            else:
                far = self._far()
                seconds = self._some(0.5 * self._start if far else self._start + 4 * self._save)
                training.wait(process, lambda: self._far() > far, seconds)
            process.kill()
            if process.wait() >= 0:
                raise Ended(f"status {process.returncode} at the moment of the kill")
            if aim == "before any" and training.unfinished():
                self._start = 0.8 * (time.monotonic() - began)  # faster than the first time: programs are cached
        hit = "elsewhere" if training.saved() else "before any"
        hit = "save" if training.unfinished() else "restore" if training.restoring() else hit
        if aim == "restore" and training.restored():
            self._restore /= 2  # too late
        self.kills[hit] += 1
        return hit

    def _far(self) -> bool:
        """Little is left to train: it must not come to its end."""
        return (self._training.saved() or [0])[-1] > 0.7 * self._training.steps

    def _some(self, seconds: float) -> float:
        return self._random.uniform(0, seconds)


def uninterrupted(training: Training) -> tuple[float, float]:
    """Run to the end: the seconds until the first save begins, and those that a save takes."""
    began, saves, since, start = time.monotonic(), [], 0.0, 0.0
    with training.process() as process:
        while process.poll() is None:
            now, saving = time.monotonic(), bool(training.unfinished())
            if saving and not since:
                since, start = now, start or now - began
            elif since and not saving:
                since, _ = 0.0, saves.append(now - since)
            time.sleep(0.001)
    if process.returncode:
        raise SystemExit(f"the uninterrupted training failed: {training.log.read_text()}")
    return start, statistics.median(saves)


def unreadable(run: Path) -> str:
    """Why the run cannot be read: empty if it can."""
    try:
        if (run / "config.json").exists():
            model = Model(*read_config(epath.Path(run)))
            with Checkpoints(run / "checkpoints") as checkpoints:
                if checkpoints.steps():
                    checkpoints.restore(jax.eval_shape(model.fresh_state))
    except UserError as error:
        return str(error)
    return ""


def differences(a: Path, b: Path) -> list[str]:
    """The leaves of the final states, and the losses, that are not equal to the bit."""
    (_, one, step), (_, two, other) = load_state(a), load_state(b)
    rows = [[(row["step"], row["loss"]) for row in read_rows(epath.Path(run) / "metrics.jsonl")] for run in (a, b)]
    bits = lambda leaf: (leaf.dtype, leaf.shape, np.asarray(leaf).tobytes())
    leaves = zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(two), strict=True)
    found = [jax.tree_util.keystr(path) for (path, x), y in leaves if bits(x) != bits(y)]
    found += [f"{what}: {x}, {y}" for what, x, y in (("step", step, other), ("rows", *map(len, rows))) if x != y]
    return found + [f"loss: {x}, {y}" for x, y in zip(*rows, strict=False) if x != y]


def main(argv: list[str] | None = None) -> Result:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30, help="at least; more until each kind was hit often enough")
    parser.add_argument("--steps", type=int, default=1000, help="length of the training")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, required=True, help="a new directory for both runs")
    arguments = parser.parse_args(argv)
    arguments.out.mkdir(parents=True)
    whole, killed = (Training(arguments.out.absolute() / name, arguments.steps) for name in ("whole", "killed"))
    start, save = uninterrupted(whole)
    print(f"uninterrupted: the first save begins after {start:.1f} s, a save takes {save:.2f} s", flush=True)

    killer = Killer(killed, arguments.seed, start=start, save=save)
    targets = {kind: max(1, round(share * arguments.kills)) for kind, share in SHARES.items()}
    resumes, failures, different = 0, [], []
    while not failures and (aim := killer.aim(targets)) and killer.kills.total() < 2 * arguments.kills:
        try:
            hit = killer.kill(aim)
        except Ended as error:
            failures.append(f"after {killer.kills.total()} kills: {error}")
            break
        resumes += 1
        if why := unreadable(killed.out):
            failures.append(f"after kill {killer.kills.total()}, {hit}: {why}")
        print(f"{killer.kills.total()}: {aim} -> {hit}, at {killed.saved()}, left: {killed.left()}", flush=True)
    if not failures:
        with killed.process() as process:
            if process.wait():
                failures.append(f"the last resume: {killed.log.read_text()[-500:]}")
        different = differences(whole.out, killed.out)

    print(f"{killer.kills.total()} kills: " + ", ".join(f"{kind} {killer.kills[kind]}" for kind in SHARES))
    print(f"resumes: {resumes - len(failures)}/{resumes}", *failures, sep="\n")
    print("\n".join(different) or "parameters, averages, optimiser state and losses are equal to the bit")
    return Result(killer.kills, resumes, failures, different)


if __name__ == "__main__":
    result = main()
    sys.exit(bool(result.failures or result.differences))
