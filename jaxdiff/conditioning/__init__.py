"""Conditioning without training: samples of an unconditional model that agree with what is known of them.

    y = A x0 + noise,    guided = conditioning.MMPS(denoise, A, y, process, noise_std=0.1),    sample(..., guided, ...)

`DDNM`, `PiGDM` and `MMPS` are denoisers of denoisers; `DDNMPlus` is a solver; `RePaint`, `replacement` and `DPS` are
solvers around solvers. `operators` has the A, `compose` joins denoisers by region, concept and window, `editing` has
the grids that change a picture. What a network was trained to be given, known elements, needs none of these:
`process.denoiser(network, observed=...)`.
"""

from jaxdiff.conditioning import compose, editing, operators
from jaxdiff.conditioning.ddnm import DDNM, DDNMPlus
from jaxdiff.conditioning.dps import DPS
from jaxdiff.conditioning.posterior import MMPS, PiGDM
from jaxdiff.conditioning.repaint import RePaint, replacement

__all__ = ["DDNM", "DPS", "MMPS", "DDNMPlus", "PiGDM", "RePaint", "compose", "editing", "operators", "replacement"]
