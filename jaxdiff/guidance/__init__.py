"""Guidance: denoisers made from denoisers, and the rules that combine two estimates.

    guided = guidance.classifier_free(denoise, cond, uncond, rule);    guided(x, t) -> x0

A rule is a frozen pytree `(x, t, c, u) -> x0` of the noisy data, the time and two denoised values, the conditional `c`
and the unconditional `u`. Rules hold rules: `rescale(rule=interval(rule=scale(scale=3.0), low=0.2, high=0.8))`. Their
numbers are leaves, a number or one for each sample, so one compilation serves a sweep. A rule of your own is any
such function; `jaxdiff.guidance.protocol` says what else it may tell.

Every estimate here is of x0. `scale` is linear, so guiding x0, the noise or v is the same; the other rules are not.
What needs the end of the step or a memory is a solver around a solver: `CFGpp` and, for
tokens, `BridgeGuidance` here, and `momentum` through `solvers.Memory`.
"""

from jaxdiff.guidance.auto import autoguidance
from jaxdiff.guidance.bridge import BridgeGuidance
from jaxdiff.guidance.cfg import classifier_free
from jaxdiff.guidance.cfgpp import CFGpp
from jaxdiff.guidance.fixed import condition
from jaxdiff.guidance.gradient import classifier
from jaxdiff.guidance.linear import scale
from jaxdiff.guidance.projection import apg
from jaxdiff.guidance.reverse_momentum import momentum
from jaxdiff.guidance.spread import rescale
from jaxdiff.guidance.threshold import dynamic_threshold
from jaxdiff.guidance.window import interval

__all__ = [
    "BridgeGuidance",
    "CFGpp",
    "apg",
    "autoguidance",
    "classifier",
    "classifier_free",
    "condition",
    "dynamic_threshold",
    "interval",
    "momentum",
    "rescale",
    "scale",
]
