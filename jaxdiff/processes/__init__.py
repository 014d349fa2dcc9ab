"""Processes: how one kind of data becomes noise, and what one reverse step draws."""

from jaxdiff.processes.blocks import CachedDenoiser
from jaxdiff.processes.discrete import Discrete
from jaxdiff.processes.gaussian import Gaussian
from jaxdiff.processes.nested import Nested
from jaxdiff.processes.ordinal import Ordinal

__all__ = ["CachedDenoiser", "Discrete", "Gaussian", "Nested", "Ordinal"]
