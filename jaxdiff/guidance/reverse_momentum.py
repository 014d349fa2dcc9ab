"""Guidance with momentum, the part of APG that needs a memory (arXiv 2410.02416, alg. 1).

    m <- (c - u) + beta m,    x0 = rule(x, t, c, c - m)

With beta < 0 the directions of earlier steps are pushed back, which the paper calls reverse momentum.
"""

import numpy as np
from jaxtyping import Array, Float

from jaxdiff.guidance.protocol import PairDenoiser
from jaxdiff.types import Denoiser, Scalar, Time, expand, is_traced, per_sample, pytree


@pytree
class Momentum:
    """The denoiser with memory that `momentum` makes."""

    denoise: PairDenoiser
    beta: Scalar | Float[Array, " B"] = per_sample()

    def __call__(
        self, x: Float[Array, "B ..."], t: Time, memory: Float[Array, "B ..."]
    ) -> tuple[Float[Array, "B ..."], Float[Array, "B ..."]]:
        c, u = self.denoise.pair(x, t)
        average = (c - u) + expand(self.beta, c) * memory
        return self.denoise.rule(x, t, c, c - average), average


def momentum(denoise: Denoiser, beta: Scalar | Float[Array, " B"] = -0.5) -> Momentum:
    """A denoiser with memory, whose rule sees the running sum m of the differences c - u instead of the last one.

    Together with the rule `apg` this is the whole of the paper's algorithm; it works with any rule:

        guided = guidance.classifier_free(denoise, cond, uncond, guidance.apg(scale=6.0, eta=0.0, norm_threshold=5.0))
        solver = solvers.Memory(inner=solvers.DDIM(), start=jnp.zeros_like)
        x, info = sample(key, process, guidance.momentum(guided, beta=-0.5), solver, grid, spec=spec)

    Outside an `interval` nothing is added and m shrinks by beta.

    Args:
        denoise: from `classifier_free`.
        beta: in (-1, 1), a number or one for each sample; negative in the paper, 0 for none. May be traced.

    Returns:
        `(x, t, memory) -> (x0, memory)`, for `solvers.Memory` with `start=jnp.zeros_like`.

    Raises:
        ValueError: a denoiser without `pair` and `rule`, or a known beta outside (-1, 1), which would not forget.
    """
    if not isinstance(denoise, PairDenoiser):
        raise ValueError(
            f"momentum needs both estimates, so a denoiser of guidance.classifier_free, got {type(denoise).__name__}"
        )
    if not is_traced(beta) and not np.all(np.abs(np.asarray(beta)) < 1):
        raise ValueError(f"beta must lie in (-1, 1), so that old differences fade, got {beta}")
    return Momentum(denoise=denoise, beta=beta)
