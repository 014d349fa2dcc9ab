"""Oracles: data laws with exactly known answers, to test schedules, solvers, losses and guidance against."""

from jaxdiff.oracles.enumerated_tokens import EnumeratedTokens, TokenDenoiser
from jaxdiff.oracles.gaussian_mixture import GaussianMixture, MixtureDenoiser

__all__ = ["EnumeratedTokens", "GaussianMixture", "MixtureDenoiser", "TokenDenoiser"]
