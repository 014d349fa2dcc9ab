"""Noise schedules: `t -> (alpha, sigma)` of the forward process x_t = alpha x0 + sigma eps.

Time runs from data, t = 0, to noise, t = 1. Every schedule is exactly (1, 0) at t = 0, and alpha / sigma strictly
decreases. A schedule's numbers are pytree leaves: a sweep over them shares one compilation.
"""

from jaxdiff.rates import logsnr, rates
from jaxdiff.schedules.cosine import Cosine
from jaxdiff.schedules.edm import EDM
from jaxdiff.schedules.from_betas import FromBetas
from jaxdiff.schedules.linear_beta import LinearBeta
from jaxdiff.schedules.rectified_flow import RectifiedFlow
from jaxdiff.schedules.shifted import Shifted
from jaxdiff.schedules.sigmoid import Sigmoid
from jaxdiff.schedules.variance_exploding import VarianceExploding
from jaxdiff.schedules.zero_terminal_snr import ZeroTerminalSNR

__all__ = [
    "EDM",
    "Cosine",
    "FromBetas",
    "LinearBeta",
    "RectifiedFlow",
    "Shifted",
    "Sigmoid",
    "VarianceExploding",
    "ZeroTerminalSNR",
    "logsnr",
    "rates",
]
