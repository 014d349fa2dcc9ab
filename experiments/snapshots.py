"""Snapshots of power-function averages, and averages of other lengths made of them (arXiv 2312.02696, sec. 3.2)."""

from typing import Any

import jax
from etils import epath

from experiments.checkpoint import Checkpoints
from experiments.errors import UserError
from experiments.loading import read_model
from experiments.model import Model
from experiments.recipe import Recipe
from jaxdiff import averages

FOLDER = "snapshots"
_COUNT = 16  # in a run
_CLOSE = 0.1  # distance of profiles up to which an average counts as reconstructed


def interval(recipe: Recipe) -> int:
    """Steps between two snapshots: a sixteenth of the run, at a step where a dispatch ends."""
    count = recipe.steps_per_dispatch
    return max(recipe.steps // _COUNT // count, 1) * count


def open_snapshots(run: epath.Path) -> Checkpoints:
    """All of them are kept."""
    return Checkpoints(run / FOLDER, None)


def reconstruct(run: epath.Path, sigma_rel: float, *, step: int | None = None) -> tuple[Model, Any, int]:
    """`(model, parameters, step)` with the average of relative length `sigma_rel` at a snapshot, the newest by default.

    Raises:
        UserError: no snapshots, none at that step, or a length that they do not give.
    """
    model = read_model(run)
    recipe = model.recipe
    if not recipe.averages or not (run / FOLDER).exists():
        raise UserError(
            f"--sigma-rel {sigma_rel:g} needs a run with snapshots of its averages, {run} has none; train with "
            "--averages 0.05 0.10, or leave it out for the run's own average"
        )
    try:
        gamma = averages.power.of_width(sigma_rel).gamma
    except ValueError as error:
        raise UserError(f"--sigma-rel: {error}") from error
    like = jax.eval_shape(model.fresh_state).averages
    with open_snapshots(run) as snapshots:
        steps = snapshots.steps()
        step = steps[-1] if step is None and steps else step
        if step not in steps:
            raise UserError(
                f"--sigma-rel needs a snapshot at step {step}, {run} has those of {steps}; name one by --step"
            )
        kept = [averages.power.of_width(width).gamma for width in recipe.averages]
        used = [before for before in steps if before <= step]
        stored = [(before, each) for before in used for each in kept]
        distance = averages.misfit(stored, (step, gamma))
        if distance > _CLOSE:
            raise UserError(
                f"the snapshots of lengths {recipe.averages} give no average of length {sigma_rel:g} at step {step} "
                f"(the profile is off by {distance:.0%}); take a length near theirs, or a later step"
            )
        trees = (tree for before in used for tree in _ordered(snapshots.restore(like, before)[0], recipe))
        return model, model.network(averages.reconstruct(trees, stored, (step, gamma))), step


def _ordered(kept: dict[str, Any], recipe: Recipe) -> list[Any]:
    return [kept[str(width)] for width in recipe.averages]
