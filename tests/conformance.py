"""The shared lists: a new schedule, prediction, weighting, grid or solver is one line here."""

import numpy as np

from jaxdiff import grids, oracles, predictions, schedules, solvers, weightings

SCHEDULES = {
    "cosine": schedules.Cosine(),
    "rectified flow": schedules.RectifiedFlow(),
    "linear beta": schedules.LinearBeta(),
    "variance exploding": schedules.VarianceExploding(),
    "edm": schedules.EDM(),
    "from betas": schedules.FromBetas(betas=np.linspace(1e-4, 0.02, 1000, dtype=np.float32)),
}
SMOOTH = ("cosine", "rectified flow", "linear beta")  # rates are continuous and of order one: for convergence tests

PREDICTIONS = {
    "x0": predictions.x0(),
    "eps": predictions.eps(),
    "v": predictions.v(),
    "velocity": predictions.velocity(),
    "score": predictions.score(),
    "edm": predictions.edm(),
}
NEEDS_SIGNAL = ("eps", "score")  # undefined where alpha = 0
NO_SIGNAL_AT_ONE = ("cosine", "rectified flow")

WEIGHTINGS = {
    "v": weightings.v(),
    "eps": weightings.eps(),
    "x0": weightings.x0(),
    "velocity": weightings.velocity(),
    "edm": weightings.edm(),
    "min_snr": weightings.min_snr(),
}

GRIDS = {
    "uniform": grids.uniform,
    "quadratic": grids.quadratic,
    "karras": grids.karras,
    "logsnr": grids.logsnr,
}

SOLVERS = {
    "ancestral": solvers.Ancestral(),
    "ddim": solvers.DDIM(),
    "ddim eta": solvers.DDIM(eta=0.5),
    "euler": solvers.Euler(),
    "heun": solvers.Heun(),
    "dpm++ 2m": solvers.DPMpp2M(),
}
STOCHASTIC = ("ancestral", "ddim eta")


def mixture() -> oracles.GaussianMixture:
    """Three well-separated, unlike components in two dimensions, of about unit variance."""
    return oracles.GaussianMixture(
        weights=np.array([0.2, 0.5, 0.3]),
        means=np.array([[1.0, 0.8], [-0.9, 0.3], [0.4, -1.1]]),
        covariances=np.array(
            [[[0.10, 0.03], [0.03, 0.05]], [[0.04, 0.0], [0.0, 0.12]], [[0.06, -0.02], [-0.02, 0.06]]]
        ),
    )
