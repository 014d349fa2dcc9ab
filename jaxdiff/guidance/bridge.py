"""Guidance of a reverse step of tokens, not of the data that it expects (D-CFG, arXiv 2412.10193).

    p(z_s | z_t) ~ p_c(z_s | z_t)^scale p_u(z_s | z_t)^(1 - scale)    for each token

with the laws p_c and p_u of the step that two denoisers give, each a mean of bridges. Where every jump goes
to a mask, guidance of x0 makes the same tokens of masks, only at the rate of the process, where this has another rate.
Elsewhere the laws of z_s are unlike.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Integer

from jaxdiff import noise
from jaxdiff.guidance.protocol import PairDenoiser
from jaxdiff.types import Denoiser, Noise, Process, pytree

_NEVER = -1e9


@pytree
class BridgeGuidance:
    """`Ancestral` steps whose law is guided, for any `Discrete` process; the network sees each sample twice a step.

    The rule of `guidance.classifier_free` gets logarithms of the two laws of the step, shape (B, ..., V), in place of
    two estimates of x0: `scale`, or `interval` of it; rules that take norms over a sample are not for tokens. At scale
    1 this is `Ancestral` on the conditional denoiser, at 0 on the unconditional one. In a step to sigma(s) = 0 the law
    is that of x0, guided.

    A state that both laws exclude stays excluded. One that only one of them does, by rounding, counts there with the
    smallest normal number, so that nothing is infinite.

    Raises:
        ValueError: in `init`, a process without tokens; in `step`, a denoiser that is not from
            `guidance.classifier_free`.
    """

    order = 1

    def nfe(self, grid: Float[Array, " N"]) -> Int[Array, ""]:
        return jnp.sum(grid[1:] != grid[:-1])

    def init(self, process: Process, x: Integer[Array, "B ..."], grid: Float[Array, " N"]) -> tuple[()]:
        if not hasattr(process, "bridge_logits"):
            raise ValueError(
                f"BridgeGuidance needs a process of tokens, with bridge_logits, got {type(process).__name__}; for real "
                "numbers classifier_free with any solver does the same"
            )
        return ()

    def step(
        self,
        keys: Noise,
        process: Process,
        denoise: Denoiser,
        x: Integer[Array, "B ..."],
        t: Float[Array, ""],
        s: Float[Array, ""],
        state: Any,
    ) -> tuple[Integer[Array, "B ..."], Any]:
        return noise.categorical(keys, self.logits(process, denoise, x, t, s)), state

    def logits(
        self, process: Any, denoise: Denoiser, x: Integer[Array, "B ..."], t: Float[Array, ""], s: Float[Array, ""]
    ) -> Float[Array, "B ... V"]:
        """log of the law that a step draws each token from, not normalised, shape (B, ..., V)."""
        if not isinstance(denoise, PairDenoiser):
            raise ValueError(
                f"BridgeGuidance combines two laws of a step, so it needs the denoiser of guidance.classifier_free "
                f"itself, got {type(denoise).__name__}"
            )
        c, u = (process.bridge_logits(log_probs, x, t, s) for log_probs in denoise.pair(x, t))
        floor = jnp.log(jnp.finfo(c.dtype).tiny)
        guided = denoise.rule(x, t, jnp.maximum(c, floor), jnp.maximum(u, floor))
        return jnp.where((c <= floor) & (u <= floor), _NEVER, guided)
