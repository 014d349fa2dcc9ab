"""Solvers: one reverse step from t to s. A solver knows a process and a denoiser, not networks, data or devices.

A solver is a frozen pytree with `order`, `nfe(grid)`, `init(process, x, grid) -> state` and
`step(keys, process, denoise, x, t, s, state) -> (x, state)`; `jaxdiff.types.Solver` is the protocol. There is no
base class and no registry: a solver of your own is a class in your own file. `scores` is what `Confidence` ranks by.
"""

from jaxdiff.solvers import scores as scores
from jaxdiff.solvers.adaptive import Adaptive
from jaxdiff.solvers.ancestral import Ancestral
from jaxdiff.solvers.block_diffusion import BlockDiffusion
from jaxdiff.solvers.confidence import Confidence
from jaxdiff.solvers.ddim import DDIM
from jaxdiff.solvers.deis import DEIS
from jaxdiff.solvers.dpm_solver_2 import DPMSolver2
from jaxdiff.solvers.dpmpp_2m import DPMpp2M
from jaxdiff.solvers.dpmpp_2m_sde import DPMpp2MSDE
from jaxdiff.solvers.dpmpp_2s import DPMpp2S
from jaxdiff.solvers.dpmpp_3m import DPMpp3M
from jaxdiff.solvers.dpmpp_3m_sde import DPMpp3MSDE
from jaxdiff.solvers.dpmpp_3s import DPMpp3S
from jaxdiff.solvers.dpmpp_sde import DPMppSDE
from jaxdiff.solvers.each import Each
from jaxdiff.solvers.edm_stochastic import EDMStochastic
from jaxdiff.solvers.euler import Euler
from jaxdiff.solvers.euler_ancestral import EulerAncestral
from jaxdiff.solvers.euler_maruyama import EulerMaruyama
from jaxdiff.solvers.first_hitting import FirstHitting
from jaxdiff.solvers.heun import Heun
from jaxdiff.solvers.lcm import LCM
from jaxdiff.solvers.lms import LMS
from jaxdiff.solvers.memory import Memory
from jaxdiff.solvers.pndm import PNDM
from jaxdiff.solvers.predictor_corrector import PredictorCorrector
from jaxdiff.solvers.remdm import ReMDM
from jaxdiff.solvers.restart import Restart
from jaxdiff.solvers.unipc import UniPC

__all__ = [
    "DDIM",
    "DEIS",
    "LCM",
    "LMS",
    "PNDM",
    "Adaptive",
    "Ancestral",
    "BlockDiffusion",
    "Confidence",
    "DPMSolver2",
    "DPMpp2M",
    "DPMpp2MSDE",
    "DPMpp2S",
    "DPMpp3M",
    "DPMpp3MSDE",
    "DPMpp3S",
    "DPMppSDE",
    "EDMStochastic",
    "Each",
    "Euler",
    "EulerAncestral",
    "EulerMaruyama",
    "FirstHitting",
    "Heun",
    "Memory",
    "PredictorCorrector",
    "ReMDM",
    "Restart",
    "UniPC",
]
