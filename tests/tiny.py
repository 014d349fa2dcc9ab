"""A recipe that trains in seconds, for tests of everything around training."""

import dataclasses

import numpy as np

from experiments.data import Digits
from experiments.networks import MLP
from experiments.recipe import Evaluation, Optimizer, Recipe, Sampler
from jaxdiff import Gaussian, schedules


def recipe(**changes) -> Recipe:
    tiny = Recipe(
        data=Digits(),
        network=MLP(width=32, depth=1, dropout=0.1),
        process=Gaussian(schedule=schedules.Cosine()),
        optimizer=Optimizer(warmup=5),
        batch_size=32,
        steps=40,
        sampler=Sampler(steps=3),
        evaluation=Evaluation(samples=200, judges=1),
        log_every=5,
        checkpoint_every=20,
    )
    return dataclasses.replace(tiny, **changes)


FLAGS = [
    *("--network", "mlp", "--network.width", "32", "--network.depth", "1", "--batch-size", "32", "--steps", "40"),
    *("--log-every", "5", "--checkpoint-every", "20", "--sampler.steps", "3", "--devices", "1"),
    *("--evaluation.samples", "200", "--evaluation.judges", "1"),
]
"""The same on the command line."""


def arrays(steps: int, *, batch: int = 32, shape=(8, 8, 1), classes: int = 10):
    """Batches of noise with labels: what `run` takes without any data library."""
    rng = np.random.default_rng(0)
    for _ in range(steps):
        x0 = rng.uniform(-1, 1, (batch, *shape)).astype(np.float32)
        yield {"x0": x0, "cond": rng.integers(0, classes, batch).astype(np.int32)}
