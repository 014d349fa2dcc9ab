"""Token processes as a recipe names them: the kind of noise now, the number of tokens once the data are known."""

from dataclasses import dataclass, field

import jaxdiff
from jaxdiff.schedules import RectifiedFlow
from jaxdiff.types import Schedule


@dataclass(frozen=True, kw_only=True)
class Masked:
    """Tokens become a mask: masked diffusion (MDLM, MD4, LLaDA)."""

    schedule: Schedule = field(default_factory=RectifiedFlow)
    uniform: float = 0.0
    """Share of the jumps that go to any token instead of the mask, in [0, 1]."""

    def make(self, tokens: int) -> jaxdiff.Discrete:
        return jaxdiff.Discrete.masked(tokens, uniform=self.uniform, schedule=self.schedule)


@dataclass(frozen=True, kw_only=True)
class Uniform:
    """Tokens become any other token: uniform diffusion (D3PM, UDLM)."""

    schedule: Schedule = field(default_factory=RectifiedFlow)

    def make(self, tokens: int) -> jaxdiff.Discrete:
        return jaxdiff.Discrete.uniform(tokens, schedule=self.schedule)


@dataclass(frozen=True, kw_only=True)
class Ordinal:
    """Tokens become their neighbours first: discretised Gaussian jumps, for levels of grey and other ordered values."""

    schedule: Schedule = field(default_factory=RectifiedFlow)
    beta: float = 1.0
    """Jumps between levels x and y have the rate exp(-beta (x - y)^2)."""

    def make(self, tokens: int) -> jaxdiff.Ordinal:
        return jaxdiff.Ordinal.gaussian(tokens, beta=self.beta, schedule=self.schedule)


Process = jaxdiff.Gaussian | Masked | Uniform | Ordinal
