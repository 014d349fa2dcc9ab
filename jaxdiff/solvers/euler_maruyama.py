"""Euler-Maruyama on the reverse SDE in the process's own time (arXiv 2011.13456, eq. 6)."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxdiff import noise
from jaxdiff.rates import rates
from jaxdiff.solvers.steps import diffuse, noise_in, real_steps, slope
from jaxdiff.types import Denoiser, Noise, Process, Scalar, pytree


@pytree
class EulerMaruyama:
    """x_s = x + (s - t) dx/dt - eta^2 G (t - s) eps + eta sqrt(2 sigma G (t - s)) z.

    G = sigma' - sigma alpha' / alpha; 2 sigma G is the squared diffusion g^2 of the forward SDE. eta = 0 is `Euler`.
    G is infinite where alpha = 0: a step from there is the SDE's exact one for a constant denoised value. The step to
    s = 0 returns x0.

    Args:
        eta: scale of the noise, >= 0; may be traced.
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
        (alpha, sigma), (d_alpha, d_sigma) = rates(process.schedule, t)
        to = process.schedule(s)
        x0 = denoise(x, t)
        signal = alpha > 0
        spread = (d_sigma - sigma * d_alpha / jnp.where(signal, alpha, 1.0)) * (t - s)
        drifted = x + (s - t) * slope(process, x, x0, t) - self.eta**2 * spread * noise_in(x, x0, alpha, sigma)
        mean, std = diffuse(x, x0, (alpha, sigma), to, self.eta)
        x_s = noise.add(
            keys, jnp.where(signal, drifted, mean), jnp.where(signal, self.eta * jnp.sqrt(2 * sigma * spread), std)
        )
        return jnp.where(to[1] == 0, x0, x_s), state
