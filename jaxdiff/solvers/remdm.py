"""ReMDM: masked diffusion whose finished tokens may become masks again (arXiv 2503.00307, sec. 3).

Ancestral steps never change a token. Let one at t become a mask at s with probability r, and a mask become its token k
with probability g p(k). A token of x0 = k is unmasked at t with probability alpha_t and at s with

    alpha_t (1 - r) + sigma_t g,    which is alpha_s for    g = (sigma_t - sigma_s + r alpha_t) / sigma_t,

so each q(z_t | x0) stays as it is, and with it the ELBO's denoiser, for every r with g <= 1: that is

    0 <= r <= r_max = min(1, sigma_s / alpha_t)        (the paper's sigma_max, with 1 - alpha = sigma).

r = 0 is `Ancestral`. To its logits of a mask, `process.bridge_logits`, r adds log1p(r alpha_t / (sigma_t - sigma_s))
for each token and log1p(-r alpha_t / sigma_s) for staying one.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer

from jaxdiff import noise
from jaxdiff.solvers.masks import mask_state
from jaxdiff.solvers.steps import real_steps
from jaxdiff.types import Denoiser, Noise, Process, Scalar, is_traced, pytree, static


@pytree
class ReMDM:
    """Ancestral steps on masks that also take tokens back: early mistakes can be mended; one call a step.

    More steps than tokens are worth their calls here: finished tokens are drawn again, given the others. A token that
    stands in x at the start may be taken back too; give what is known as `process.denoiser(network, observed=...)`.

    Args:
        eta: in [0, 1], how much is taken back; may be traced. 0 is `Ancestral`, bit for bit.
        rescale: r = eta r_max ("rescale", sec. 4.1), where 1 takes as much back as possible. By default r = min(eta,
            r_max) ("cap"), at most the share eta of the tokens in a step. It does not
            shrink with the step, so an eta belongs to a number of steps.

    Raises:
        ValueError: an eta that is known and outside [0, 1]; in `init`, a process whose jumps do not all go to a mask.
    """

    eta: Scalar = 0.02
    rescale: bool = static(default=False)
    order = 1
    one_call = True

    def __post_init__(self):
        if not is_traced(self.eta) and not 0 <= np.asarray(self.eta) <= 1:
            raise ValueError(f"eta is a share of what can be taken back, from 0 to 1, got {self.eta}; 0 takes nothing")

    def nfe(self, grid: Float[Array, " N"]) -> Int[Array, ""]:
        return real_steps(grid)

    def init(self, process: Process, x: Integer[Array, "B ..."], grid: Float[Array, " N"]) -> tuple[()]:
        mask_state(process, self)
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
        return noise.categorical(keys, self.logits(process, denoise(x, t), x, t, s)), state

    def logits(
        self,
        process: Any,
        log_probs: Float[Array, "B ... K"],
        x: Integer[Array, "B ..."],
        t: Float[Array, ""],
        s: Float[Array, ""],
    ) -> Float[Array, "B ... V"]:
        """log of the law that a step draws each token from, shape (B, ..., V); arguments as of `bridge_logits`."""
        mask, logits = mask_state(process, self), process.bridge_logits(log_probs, x, t, s)
        (alpha_t, sigma_t), (_, sigma_s) = process.schedule(t), process.schedule(s)
        most = jnp.minimum(1.0, sigma_s / jnp.where(alpha_t > 0, alpha_t, 1.0))
        most = jnp.where(alpha_t > 0, most, 1.0)
        r = self.eta * most if self.rescale else jnp.minimum(self.eta, most)
        more = jnp.log1p(r * alpha_t / (sigma_t - sigma_s))
        less = jnp.log1p(-jnp.minimum(r * alpha_t / jnp.where(sigma_s > 0, sigma_s, 1.0), 1.0))
        states = jnp.arange(logits.shape[-1])
        of_mask = logits + jnp.where(states == mask, less, more)
        # Not from the process: at alpha(t) = 0 a token has no law there, and one that stands in x stays all the same.
        of_token = jnp.where(states == x[..., None], jnp.log1p(-r), jnp.where(states == mask, jnp.log(r), -jnp.inf))
        changed = jnp.where((x == mask)[..., None], of_mask, of_token)
        return jnp.where(sigma_s == 0, logits, changed)
