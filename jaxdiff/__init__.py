"""jaxdiff: diffusion models on JAX as pure functions over frozen pytrees."""

from jaxdiff import (
    autoencoding,
    averages,
    conditioning,
    grids,
    guidance,
    likelihood,
    metrics,
    networks,
    oracles,
    parallel,
    predictions,
    schedules,
    solvers,
    times,
    uncertainty,
    weightings,
)
from jaxdiff.processes import Discrete, Gaussian, Nested, Ordinal
from jaxdiff.sampling import sample
from jaxdiff.training import TrainState, make_step

__version__ = "0.1.0"

__all__ = [
    "Discrete",
    "Gaussian",
    "Nested",
    "Ordinal",
    "TrainState",
    "autoencoding",
    "averages",
    "conditioning",
    "grids",
    "guidance",
    "likelihood",
    "make_step",
    "metrics",
    "networks",
    "oracles",
    "parallel",
    "predictions",
    "sample",
    "schedules",
    "solvers",
    "times",
    "uncertainty",
    "weightings",
]
