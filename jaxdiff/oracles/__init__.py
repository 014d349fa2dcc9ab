"""Oracles: data laws with exactly known answers, to test schedules, solvers, losses and guidance against."""

from jaxdiff.oracles.gaussian_mixture import GaussianMixture, MixtureDenoiser

__all__ = ["GaussianMixture", "MixtureDenoiser"]
