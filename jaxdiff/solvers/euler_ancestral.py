"""Euler ancestral: Euler's method past s, and fresh noise back to it (Crowson, k-diffusion)."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxdiff import noise
from jaxdiff.rates import logsnr
from jaxdiff.solvers.steps import real_steps, slope
from jaxdiff.types import Denoiser, Noise, Process, Scalar, pytree


@pytree
class EulerAncestral:
    """Euler's step in t from t to d < s, then q(x_s | x_d), with d such that a share of the variance at s is new.

    The share is eta^2 times that of the process's bridge, as for `DDIM`, which it equals on the EDM schedule. eta = 0
    is `Euler`. The step to s = 0 returns x0.

    Args:
        eta: scale of the noise, 0 to 1; may be traced.
    """

    eta: Scalar = 1.0
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
        schedule = process.schedule
        (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
        x0 = denoise(x, t)
        share = self.eta**2 * jnp.maximum(1 - (alpha_t * sigma_s / (alpha_s * sigma_t)) ** 2, 0.0)
        # log-SNR at d: sigma / alpha is smaller by sqrt(1 - share) than at s. From alpha = 0 that may be all of it.
        d = jnp.where(share > 0, schedule.inverse(logsnr(schedule, s) - jnp.log1p(-share)), s)
        alpha_d, sigma_d = schedule(d)
        x_d = jnp.where(sigma_d == 0, x0, x + (d - t) * slope(process, x, x0, t))
        x_s = noise.add(keys, alpha_s / alpha_d * x_d, sigma_s * jnp.sqrt(share))
        return jnp.where(sigma_s == 0, x0, x_s), state
