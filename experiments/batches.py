"""Batches as a training step takes them: described, checked, numbered, and stacked for several steps at once."""

from typing import Any

import jax
import numpy as np

from experiments.errors import UserError
from experiments.info import DataInfo
from experiments.recipe import Recipe
from experiments.stream import Batch, Stream


def describe(batch: Batch) -> DataInfo:
    """Shape and classes of arrays that came without a description."""
    cond = batch.get("cond")
    labels = cond.get("label") if isinstance(cond, dict) else cond
    classes = 0 if labels is None else 1 + int(np.max(labels))
    return DataInfo(shape=tuple(batch["x0"].shape[1:]), classes=tuple(map(str, range(classes))), name="arrays")


def check(recipe: Recipe, batch: Batch, parts: int) -> None:
    """Whether this process's batch is the recipe's share, and divides over `parts` devices of all processes.

    Raises:
        UserError: it does not.
    """
    processes = jax.process_count()
    size = len(batch["x0"])
    if size * processes != recipe.batch_size:
        raise UserError(
            f"the recipe's batch_size is {recipe.batch_size}, but the batches have {size} examples"
            f"{f' in each of {processes} processes' * (processes > 1)}; make them agree"
        )
    if recipe.batch_size % parts:
        raise UserError(
            f"{parts} devices must divide the batch, got a batch of {recipe.batch_size}; "
            f"use --batch-size {recipe.batch_size + -recipe.batch_size % parts}, or fewer --devices"
        )
    if recipe.batch_size // parts % recipe.accumulate:
        raise UserError(
            f"--accumulate {recipe.accumulate} must divide the {recipe.batch_size // parts} examples of each device; "
            f"use --batch-size {recipe.batch_size + -recipe.batch_size % (parts * recipe.accumulate)}"
        )


def take(stream: Stream, step: int, count: int) -> Batch:
    """The batch of `step`, or those of `count` steps from it on, stacked along a new first axis."""
    if count == 1:
        return numbered(next(stream), step)
    batches = [numbered(next(stream), step + i) for i in range(count)]
    return jax.tree.map(lambda *rows: np.stack(rows), *batches)


def numbered(batch: Batch, step: int) -> dict[str, Any]:
    """The batch with each example's position in the stream, for noise that does not depend on the layout."""
    if "index" in batch:
        return batch
    rows = len(batch["x0"])
    position = jax.process_index() + jax.process_count() * np.arange(rows)
    return {**batch, "index": (step * rows * jax.process_count() + position).astype(np.int32)}
