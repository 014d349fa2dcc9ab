"""Likelihood: what a denoiser says about the density of data.

`elbo` bounds log p(x0) from below for any denoiser, at the price of noise; `log_density` is the density of what the
probability-flow ODE samples, without noise if the divergence is exact. For the exact denoiser the two meet.
"""

from jaxdiff.likelihood.bound import elbo
from jaxdiff.likelihood.density import FlowInfo, angle_grid, log_density
from jaxdiff.likelihood.units import bits_per_dim

__all__ = ["FlowInfo", "angle_grid", "bits_per_dim", "elbo", "log_density"]
