"""Processes: how one kind of data becomes noise, and what one reverse step draws."""

from jaxdiff.processes.discrete import Discrete
from jaxdiff.processes.gaussian import Gaussian

__all__ = ["Discrete", "Gaussian"]
