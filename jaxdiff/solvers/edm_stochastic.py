"""EDM's stochastic sampler: a little noise back, then Heun's method (arXiv 2206.00364, alg. 2)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxdiff import noise
from jaxdiff.rates import logsnr
from jaxdiff.solvers.steps import real_steps, slope, steps_to_noise
from jaxdiff.types import Denoiser, Noise, Process, Scalar, pytree


@pytree
class EDMStochastic:
    """From t up to the time u whose noise scale is (1 + gamma) times that of t, then Heun's step from u to s.

    gamma = min(churn / steps, sqrt(2) - 1) where sigma / alpha lies in [s_min, s_max], else 0; u is at most 1. The
    noise is that of q(x_u | x_t) times `s_noise`. churn = 0 is `Heun`.

    Args:
        churn: S_churn, >= 0: gamma summed over the steps; may be traced, like the others.
        s_min, s_max: noise scales sigma / alpha between which noise is added.
        s_noise: scale of that noise; slightly above 1 makes up for networks that remove too much.
    """

    churn: Scalar = 40.0
    s_min: Scalar = 0.05
    s_max: Scalar = 50.0
    s_noise: Scalar = 1.0
    order = 2
    strong_order = 1

    def nfe(self, grid: Float[Array, " N"]) -> Int[Array, ""]:
        return real_steps(grid) + steps_to_noise(grid)

    def init(self, process: Process, x: Float[Array, "B ..."], grid: Float[Array, " N"]) -> Int[Array, ""]:
        return real_steps(grid)

    def step(
        self,
        keys: Noise,
        process: Process,
        denoise: Denoiser,
        x: Float[Array, "B ..."],
        t: Float[Array, ""],
        s: Float[Array, ""],
        state: Int[Array, ""],
    ) -> tuple[Float[Array, "B ..."], Int[Array, ""]]:
        schedule = process.schedule
        alpha, sigma = schedule(t)
        churned = (sigma >= self.s_min * alpha) & (sigma <= self.s_max * alpha)
        gamma = jnp.where(churned, jnp.minimum(self.churn / state, jnp.sqrt(2.0) - 1), 0.0)
        u = jnp.where(gamma > 0, schedule.inverse(logsnr(schedule, t) - 2 * jnp.log1p(gamma)), t)
        u = jnp.clip(u, t, jnp.maximum(t, 1.0)).astype(t.dtype)
        alpha_u, sigma_u = schedule(u)
        ratio = jnp.where(u > t, alpha_u / jnp.where(alpha > 0, alpha, 1.0), 1.0)
        std = jnp.where(u > t, jnp.sqrt(jnp.maximum(sigma_u**2 - (ratio * sigma) ** 2, 0.0)), 0.0)
        x = noise.add(keys, ratio * x, self.s_noise * std)

        x0 = denoise(x, u)
        first = slope(process, x, x0, u)
        euler = x + (s - u) * first

        def corrected():
            second = slope(process, euler, denoise(euler, s), s)
            return x + 0.5 * (s - u) * (first + second)

        return jax.lax.cond(schedule(s)[1] == 0, lambda: x0, corrected), state
