"""Solvers: one reverse step from t to s. A solver knows a process and a denoiser, not networks, data or devices.

A solver is a frozen pytree with `order`, `nfe(grid)`, `init(process, x, grid) -> state` and
`step(keys, process, denoise, x, t, s, state) -> (x, state)`; `jaxdiff.types.Solver` is the protocol. There is no
base class and no registry: a solver of your own is a class in your own file.
"""

from jaxdiff.solvers.ancestral import Ancestral
from jaxdiff.solvers.ddim import DDIM
from jaxdiff.solvers.dpmpp_2m import DPMpp2M
from jaxdiff.solvers.euler import Euler
from jaxdiff.solvers.heun import Heun

__all__ = ["DDIM", "Ancestral", "DPMpp2M", "Euler", "Heun"]
