"""CFG++: the guided denoised value, renoised with the unconditional noise (arXiv 2406.08070).

    x_s = alpha_s D_g + sigma_s eps_u,    D_g = rule(x, t, c, u),    eps_u = (x - alpha_t u) / sigma_t

Plain guidance renoises with (x - alpha_t D_g) / sigma_t, which no denoiser has estimated.
"""

from typing import Any

from jaxtyping import Array, Float, Int

from jaxdiff.guidance.protocol import PairDenoiser
from jaxdiff.types import Denoiser, Noise, Process, Solver, pytree


@pytree
class CFGpp:
    """CFG++ with the steps of another solver (arXiv 2406.08070): `CFGpp(inner=solvers.DDIM())`.

    The inner solver steps from alpha_t D_g + sigma_t eps_u = x + alpha_t (D_g - u), with D_g for the denoised value, so
    the noise that it finds there is eps_u. For DDIM this is the formula above; for another solver it is that solver's
    step with D_g and eps_u, also where it keeps only a part of the noise and draws the rest. Nothing is divided by
    sigma_t, and a step to sigma_s = 0 returns D_g exactly.

    The scale is the rule's: `guidance.scale(scale=0.6)` is the paper's lambda, in [0, 1], where 0 is the inner solver
    on the unconditional denoiser. **The shift does not shrink with the step.** One step of DDIM is plain guidance with
    the scale lambda / (1 - (alpha_t / sigma_t) / (alpha_s / sigma_s)), so a lambda belongs to a number of steps, and
    more steps do not converge to an ODE; `order` is the inner solver's, at scale 0. Outside an `interval` a step is the
    inner solver's on the conditional denoiser.

    An inner solver with a history keeps D_g in it, where the paper's DPM-Solver++(2M) keeps u. One that carries x
    itself from step to step, like UniPC's corrector, does not see the shift.

    Args:
        inner: a solver that declares `one_call`.

    Raises:
        ValueError: an inner solver that calls its denoiser more than once a step; in `step`, a denoiser that is not
            from `guidance.classifier_free`.
    """

    inner: Solver

    def __post_init__(self):
        if not getattr(self.inner, "one_call", False):
            raise ValueError(
                f"CFGpp needs an inner solver that calls its denoiser once a step, at (x, t), and declares "
                f"one_call = True, got {type(self.inner).__name__}; solvers.DDIM() is the paper's"
            )

    @property
    def order(self) -> int:
        return self.inner.order

    def nfe(self, grid: Float[Array, " N"]) -> Int[Array, ""]:
        return self.inner.nfe(grid)

    def init(self, process: Process, x: Float[Array, "B ..."], grid: Float[Array, " N"]) -> Any:
        return self.inner.init(process, x, grid)

    def step(
        self,
        keys: Noise,
        process: Process,
        denoise: Denoiser,
        x: Float[Array, "B ..."],
        t: Float[Array, ""],
        s: Float[Array, ""],
        state: Any,
    ) -> tuple[Float[Array, "B ..."], Any]:
        if not isinstance(denoise, PairDenoiser):
            raise ValueError(
                f"CFGpp renoises with the unconditional noise, so it needs the denoiser of guidance.classifier_free "
                f"itself, got {type(denoise).__name__}"
            )
        c, u = denoise.pair(x, t)
        guided = denoise.rule(x, t, c, u)
        shifted = x + process.schedule(t)[0] * (guided - u)
        return self.inner.step(keys, process, lambda x, t, cond=None: guided, shifted, t, s, state)
