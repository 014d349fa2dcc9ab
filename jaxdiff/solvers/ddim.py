"""DDIM: the family between the probability-flow ODE and ancestral sampling (arXiv 2010.02502, eq. 12 and 16)."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxdiff import noise
from jaxdiff.solvers.steps import noise_in, real_steps
from jaxdiff.types import Denoiser, Noise, Process, Scalar, pytree


@pytree
class DDIM:
    """x_s = alpha_s x0 + sqrt(sigma_s^2 - eta^2 var) eps + eta sqrt(var) z, with var the bridge's variance.

    Args:
        eta: 0 is deterministic (and can go backwards, from data to noise), 1 is `Ancestral`; may be traced.
    """

    eta: Scalar = 0.0
    order = 1
    strong_order = 1
    one_call = True

    def nfe(self, grid: Float[Array, " N"]) -> Int[Array, ""]:
        return real_steps(grid)

    def init(self, process: Process, x: Float[Array, "B ..."], grid: Float[Array, " N"]) -> tuple[()]:
        return ()

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
        (alpha_t, sigma_t), (alpha_s, sigma_s) = process.schedule(t), process.schedule(s)
        x0 = denoise(x, t)
        eps = noise_in(x, x0, alpha_t, sigma_t)
        # The share of the variance at s that the bridge draws anew; none on the way to noise, s > t.
        kept, all_of_it = alpha_t * sigma_s, alpha_s * sigma_t
        fresh = (all_of_it - kept) * (all_of_it + kept) / jnp.where(kept < all_of_it, all_of_it, 1.0) ** 2
        share = jnp.where(kept < all_of_it, self.eta**2 * fresh, 0.0)
        mean = jnp.where(sigma_s == 0, x0, alpha_s * x0 + sigma_s * jnp.sqrt(1 - share) * eps)
        return noise.add(keys, mean, sigma_s * jnp.sqrt(share)), state
