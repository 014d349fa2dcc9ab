"""The directory of a run: what lies where, and when it may be written.

config.json  metrics.jsonl  summary.json  evaluation.json  report.html  *.png  checkpoints/
    checkpoints-checksums/  tensorboard/  profile/
"""

import json

from etils import epath

from experiments import config
from experiments.errors import UserError
from experiments.model import DataInfo, read_config, write_config
from experiments.recipe import Recipe


def prepare(out: epath.Path, recipe: Recipe, info: DataInfo, *, resume: bool, overwrite: bool) -> None:
    """Make `out` ready for a run: new, emptied on request, or the same run's to go on with.

    Raises:
        UserError: `out` holds a run and neither `resume` nor `overwrite` is set, or another run than this one.
    """
    if resume and overwrite:
        raise UserError("--resume goes on with a run and --overwrite deletes it; give one of them")
    occupied = out.exists() and any(out.iterdir())
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
        out.rmtree()
    out.mkdir(parents=True, exist_ok=True)
    write_config(out, recipe, info)


def write_json(path: epath.Path, data: object) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n")
