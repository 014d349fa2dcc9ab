"""The directory of a run: what lies where, and when it may be written.

config.json  metrics.jsonl  summary.json  evaluation.json  report.html  *.png  checkpoints/  tensorboard/  profile/

`config.json` comes first and goes last, as a whole, so that a run killed at any moment can be resumed or overwritten.
"""

import json
import os

from etils import epath

import jaxdiff
from experiments import config
from experiments.errors import UserError
from experiments.info import DataInfo
from experiments.loading import read_config
from experiments.recipe import Recipe

_PARTIAL = ".partial"


def prepare(out: epath.Path, recipe: Recipe, info: DataInfo, *, resume: bool, overwrite: bool) -> None:
    """Make `out` ready for a run: new, emptied on request, or the same run's to go on with.

    Raises:
        UserError: `out` holds a run and neither `resume` nor `overwrite` is set, or another run than this one.
    """
    if resume and overwrite:
        raise UserError("--resume goes on with a run and --overwrite deletes it; give one of them")
    occupied = out.exists() and any(path.suffix != _PARTIAL for path in out.iterdir())
    if resume and occupied:
        stored, data = read_config(out)
        changed = config.differences(config.encode(stored), config.encode(recipe))
        changed += config.differences(config.encode(data), config.encode(info), "data")
        if changed:
            raise UserError(
                f"the run in {out} was started with other settings ({'; '.join(changed[:5])}); "
                "resume it with the same ones, or start a new run with another --out"
            )
        return
    if occupied and not overwrite:
        raise UserError(f"{out} already holds a run or other files; add --resume, --overwrite, or choose another --out")
    if occupied:
        if not (out / "config.json").exists():
            raise UserError(
                f"{out} is no run directory (no config.json), so --overwrite will not delete it; choose another --out"
            )
        for path in out.iterdir():
            if path.name != "config.json":
                path.rmtree() if path.is_dir() and not os.path.islink(path) else path.unlink()
        (out / "config.json").unlink()
    out.mkdir(parents=True, exist_ok=True)
    encoded = {"version": jaxdiff.__version__, "data": config.encode(info), "recipe": config.encode(recipe)}
    write_json(out / "config.json", encoded)


def write_json(path: epath.Path, data: object) -> None:
    """Write all of it or nothing: readers never find half a file."""
    partial = path.with_name(path.name + _PARTIAL)
    partial.write_text(json.dumps(data, indent=2) + "\n")
    partial.replace(path)
