"""The shared lists: a new schedule, prediction, weighting, grid or solver is one line here."""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdiff import grids, oracles, predictions, schedules, solvers, weightings
from jaxdiff.types import pytree, static

SCHEDULES = {
    "cosine": schedules.Cosine(),
    "rectified flow": schedules.RectifiedFlow(),
    "linear beta": schedules.LinearBeta(),
    "variance exploding": schedules.VarianceExploding(),
    "edm": schedules.EDM(),
    "from betas": schedules.FromBetas.linear(),
    "sigmoid": schedules.Sigmoid(),
    "shifted": schedules.Shifted(base=schedules.RectifiedFlow(), shift=3.0),
    "zero terminal snr": schedules.ZeroTerminalSNR(base=schedules.FromBetas.scaled_linear()),
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
NO_SIGNAL_AT_ONE = ("cosine", "rectified flow", "sigmoid", "shifted", "zero terminal snr")
NO_VELOCITY_AT_ONE = ("sigmoid",)  # alpha falls like sqrt(1 - t): `velocity` is undefined

WEIGHTINGS = {
    "v": weightings.v(),
    "eps": weightings.eps(),
    "x0": weightings.x0(),
    "velocity": weightings.velocity(),
    "edm": weightings.edm(),
    "min_snr": weightings.min_snr(),
    "p2": weightings.p2(),
    "sigmoid": weightings.sigmoid(),
}

GRIDS = {
    "uniform": grids.uniform,
    "quadratic": grids.quadratic,
    "karras": grids.karras,
    "logsnr": grids.logsnr,
    "poly_exponential": functools.partial(grids.poly_exponential, rho=1.5),
    "beta": grids.beta,
    "linear_quadratic": grids.linear_quadratic,
    "trailing": grids.trailing,
    "leading": grids.leading,
    "linspace": grids.linspace,
}
STARTS_BELOW_ONE = ("leading",)  # by its definition

SOLVERS = {
    "ancestral": solvers.Ancestral(),
    "ancestral large": solvers.Ancestral(large=True),
    "ddim": solvers.DDIM(),
    "ddim eta": solvers.DDIM(eta=0.5),
    "euler": solvers.Euler(),
    "euler ancestral": solvers.EulerAncestral(),
    "euler-maruyama": solvers.EulerMaruyama(),
    "heun": solvers.Heun(),
    "edm": solvers.EDMStochastic(churn=4.0, s_min=0.05, s_max=5.0),
    "dpm-solver 2": solvers.DPMSolver2(),
    "dpm++ 2s": solvers.DPMpp2S(),
    "dpm++ 3s": solvers.DPMpp3S(),
    "dpm++ 2m": solvers.DPMpp2M(),
    "dpm++ 3m": solvers.DPMpp3M(start=solvers.DPMpp2S()),
    "dpm++ sde": solvers.DPMppSDE(),
    "dpm++ 2m sde": solvers.DPMpp2MSDE(),
    "dpm++ 2m sde heun": solvers.DPMpp2MSDE(heun=True),
    "dpm++ 3m sde": solvers.DPMpp3MSDE(),
    "unipc 1": solvers.UniPC(p=1),
    "unipc 2": solvers.UniPC(p=2),
    "unipc 2 bh1": solvers.UniPC(p=2, bh1=True),
    "unipc 3": solvers.UniPC(p=3),
    "deis 2": solvers.DEIS(order=2),
    "deis 3": solvers.DEIS(order=3),
    "lms 2": solvers.LMS(order=2),
    "lms 4": solvers.LMS(order=4),
    "pndm": solvers.PNDM(),
    "restart": solvers.Restart(inner=solvers.Heun(), low=0.3, high=0.6, times=2, steps=4),
    "predictor-corrector": solvers.PredictorCorrector(inner=solvers.Ancestral(), snr=0.05),
    "adaptive": solvers.Adaptive(),
    "lcm": solvers.LCM(),
}
STOCHASTIC = (
    *("ancestral", "ancestral large", "ddim eta", "euler ancestral", "euler-maruyama", "edm", "dpm++ sde"),
    *("dpm++ 2m sde", "dpm++ 2m sde heun", "dpm++ 3m sde", "restart", "predictor-corrector", "lcm"),
)
COUNTS_ITSELF = ("adaptive",)  # how often it calls denoise is not known from the grid
FOR_CONSISTENCY = ("lcm",)  # right for a consistency model, not for a denoiser


@pytree
class OneOfSchedules:
    """One of the named schedules, chosen by a number: a program is compiled once for all of them."""

    which: Any
    names: tuple[str, ...] = static(default=tuple(SCHEDULES))

    def __call__(self, t):
        return tuple(self._pick(values) for values in zip(*(SCHEDULES[n](t) for n in self.names), strict=True))

    def inverse(self, logsnr):
        return self._pick([SCHEDULES[n].inverse(logsnr) for n in self.names])

    def _pick(self, values):
        return jnp.select([self.which == i for i in range(len(values))], values)


@pytree
class OneOfPredictions:
    """One of the predictions, chosen by a number."""

    which: Any
    sigma_data: float = 1.0

    def __call__(self, schedule, t):
        pairs = [prediction(schedule, t) for prediction in PREDICTIONS.values()]
        pick = lambda values: jnp.select([self.which == i for i in range(len(values))], values)
        return tuple(pick(values) for values in zip(*pairs, strict=True))


def mixture() -> oracles.GaussianMixture:
    """Three well-separated, unlike components in two dimensions, of about unit variance."""
    return oracles.GaussianMixture(
        weights=np.array([0.2, 0.5, 0.3]),
        means=np.array([[1.0, 0.8], [-0.9, 0.3], [0.4, -1.1]]),
        covariances=np.array(
            [[[0.10, 0.03], [0.03, 0.05]], [[0.04, 0.0], [0.0, 0.12]], [[0.06, -0.02], [-0.02, 0.06]]]
        ),
    )
