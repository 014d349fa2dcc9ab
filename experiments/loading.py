"""Run directories as models again: the configuration, the model, its parameters, and whether the data are the same."""

import json
from typing import Any

import jax
from etils import epath

from experiments import config
from experiments.errors import UserError
from experiments.info import DataInfo
from experiments.model import Model
from experiments.recipe import Recipe
from jaxdiff import TrainState


def read_config(run: epath.Path) -> tuple[Recipe, DataInfo]:
    """The recipe and the data of a run directory.

    Raises:
        UserError: no such run, or a configuration that cannot be read.
    """
    path = run / "config.json"
    if not path.exists():
        raise UserError(
            f"needed a run directory with a config.json, got {run}"
            + (" (no such directory)" if not run.exists() else "")
            + "; train one: python -m experiments.train digits"
        )
    try:
        stored = json.loads(path.read_text())
        return config.decode(stored["recipe"]), config.decode(stored["data"])
    except (json.JSONDecodeError, KeyError) as error:
        raise UserError(
            f"{path} is not a configuration that this program wrote ({error}); train the run anew"
        ) from error


def read_model(run: epath.Path) -> Model:
    """The model of a run directory, without parameters but for those of its codec.

    Raises:
        UserError: as `read_config`; or the run's copy of its autoencoder is missing or damaged.
    """
    recipe, info = read_config(run)
    if info.latents is None:
        return Model(recipe, info)
    from experiments.latents import restore

    return Model(recipe, info, restore(run, info.latents))


def load(
    run: epath.PathLike, *, step: int | None = None, unfinished: bool = False, sigma_rel: float | None = None
) -> tuple[Model, Any, int]:
    """`(model, averaged parameters, step)` of a run directory.

    Args:
        run: the directory.
        step: which checkpoint, the newest by default.
        unfinished: accept a run that has not finished.
        sigma_rel: relative length of the average, reconstructed from the run's snapshots; None for the run's `ema`.

    Raises:
        UserError: as `load_state`; snapshots that are missing or too few for this length.
    """
    if sigma_rel is not None:
        from experiments.snapshots import reconstruct

        return reconstruct(epath.Path(run), sigma_rel, step=step)
    model, state, step = load_state(run, step=step, unfinished=unfinished)
    return model, model.network(state.ema), step


def load_state(
    run: epath.PathLike, *, step: int | None = None, unfinished: bool = False
) -> tuple[Model, TrainState, int]:
    """`(model, training state, step)` of a run directory.

    Raises:
        UserError: no run, no checkpoint, a damaged one, or a run that has not finished and `unfinished` is not set.
    """
    from experiments.checkpoint import Checkpoints

    run = epath.Path(run)
    model = read_model(run)
    recipe = model.recipe
    like = jax.eval_shape(model.fresh_state)
    if not (run / "checkpoints").exists():
        raise UserError(
            f"run {run} has no checkpoint; continue it: python -m experiments.train RECIPE --out {run} --resume"
        )
    with Checkpoints(run / "checkpoints", recipe.keep) as checkpoints:
        newest = max(checkpoints.steps(), default=0)
        if newest < recipe.steps and step is None and not unfinished:
            raise UserError(
                f"run {run} is unfinished: its newest checkpoint is of step {newest} of {recipe.steps}; "
                "finish it with --resume, or add --unfinished to use it as it is"
            )
        state, _, step = checkpoints.restore(like, step)
    return model, state, step


def check_same(run: epath.PathLike, model: Model, data: Any) -> None:
    """Raises UserError unless `data`, loaded anew, are those that the run was trained on."""
    if data.checksum != model.info.checksum:
        raise UserError(
            f"{run} was trained on data with checksum {model.info.checksum[:12]}, but {data.name} now has "
            f"{data.checksum[:12]}; restore the data, or train anew"
        )
