"""What solvers share: counting steps, the slope of the probability-flow ODE, and its exact solution over one step.

With L = log(alpha / sigma) the probability-flow ODE has the solution (arXiv 2211.01095, eq. 8)

    x_s = alpha_s D + sigma_s (x_t - alpha_t D) / sigma_t,    D = the mean of E[x0 | x] over L in [L_t, L_s] under e^L,

a DDIM step with an averaged denoised value. The SDE with the same marginals whose noise is scaled by eta has

    x_s = sigma_s / sigma_t kept^eta x_t + alpha_s (1 - kept^(1 + eta)) D + sigma_s sqrt(1 - kept^(2 eta)) z,

kept = e^(L_t - L_s), with the mean under e^((1 + eta) L) (arXiv 2211.01095, eq. 18 for eta = 1). Solvers differ in how
they estimate D. Everything here is finite where alpha(t) = 0, sigma(t) = 0 or sigma(s) = 0.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxdiff.rates import rates
from jaxdiff.types import Denoiser, Process, Scalar, Schedule, Time, expand

Point = tuple[Float[Array, "..."], Float[Array, "..."]]
"""(alpha, sigma) at one time."""


def real_steps(grid: Float[Array, " N"]) -> Int[Array, ""]:
    """Steps of a grid that move: equal neighbours pad a grid and cost nothing."""
    return jnp.sum(grid[1:] != grid[:-1])


def steps_to_noise(grid: Float[Array, " N"]) -> Int[Array, ""]:
    """Real steps that end in noise, s > 0: where a solver with several calls a step makes all of them."""
    return jnp.sum((grid[1:] != grid[:-1]) & (grid[1:] > 0))


def slope(
    process: Process, x: Float[Array, "B ..."], denoised: Float[Array, "B ..."], t: Time
) -> Float[Array, "B ..."]:
    """dx/dt = alpha' x0 + sigma' eps (arXiv 2011.13456, eq. 13); t has shape () or a prefix of x's."""
    (alpha, sigma), (d_alpha, d_sigma) = rates(process.schedule, t)
    return expand(d_alpha, x) * denoised + expand(d_sigma, x) * noise_in(x, denoised, alpha, sigma)


def noise_in(
    x: Float[Array, "B ..."], denoised: Float[Array, "B ..."], alpha: Time, sigma: Time
) -> Float[Array, "B ..."]:
    """eps = (x - alpha x0) / sigma; zero at sigma = 0, where an inversion starts from data without noise."""
    alpha, sigma = expand(alpha, x), expand(sigma, x)
    return jnp.where(sigma > 0, x - alpha * denoised, 0.0) / jnp.where(sigma > 0, sigma, 1.0)


def carry(x: Float[Array, "B ..."], denoised: Float[Array, "B ..."], at: Point, to: Point) -> Float[Array, "B ..."]:
    """The exact step for a denoised value averaged over it: DDIM's; `denoised` itself where sigma_s = 0."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = at, to
    return expand(alpha_s, x) * denoised + expand(sigma_s, x) * noise_in(x, denoised, alpha_t, sigma_t)


def diffuse(
    x: Float[Array, "..."], denoised: Float[Array, "..."], at: Point, to: Point, eta: Scalar
) -> tuple[Float[Array, "..."], Float[Array, ""]]:
    """Mean and standard deviation of the SDE's exact step; eta = 0 is `carry`, eta = 1 the process's own bridge."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = at, to
    kept = alpha_t * sigma_s / jnp.where(alpha_s * sigma_t > 0, alpha_s * sigma_t, 1.0)
    # 1 - kept^p without cancellation, from the difference of the two products.
    lost = jnp.log1p((alpha_t * sigma_s - alpha_s * sigma_t) / jnp.where(alpha_s * sigma_t > 0, alpha_s * sigma_t, 1.0))
    share = lambda power: jnp.where(power == 0, 0.0, -jnp.expm1(power * lost))
    ratio = jnp.where(sigma_t > 0, sigma_s / jnp.where(sigma_t > 0, sigma_t, 1.0), 1.0)
    mean = ratio * kept**eta * x + alpha_s * share(1 + eta) * denoised
    std = sigma_s * jnp.sqrt(jnp.maximum(share(2 * eta), 0.0))
    return mean, std


def level(schedule: Schedule, t: Time) -> Float[Array, "..."]:
    """L = log(alpha / sigma), half the log-SNR: -inf where alpha = 0, +inf at the data."""
    alpha, sigma = schedule(t)
    return jnp.log(alpha) - jnp.log(sigma)


def carry_noise(x: Float[Array, "B ..."], eps: Float[Array, "B ..."], at: Point, to: Point) -> Float[Array, "B ..."]:
    """The exact step for a noise averaged over it, alpha_s / alpha_t x + (sigma_s - alpha_s sigma_t / alpha_t) eps.

    The mean is under e^-L (arXiv 2206.00927, eq. 3.4). Needs alpha_t > 0.
    """
    (alpha_t, sigma_t), (alpha_s, sigma_s) = at, to
    ratio = alpha_s / jnp.where(alpha_t > 0, alpha_t, 1.0)
    return ratio * x + (sigma_s - ratio * sigma_t) * eps


def midpoint(schedule: Schedule, t: Float[Array, ""], s: Float[Array, ""]) -> Float[Array, ""]:
    """The time half-way from t to s in L, or where the step is infinite in L, the place that stands for it.

    Between a time and alpha = 0 that is half of alpha / sigma, in which e^L dL is uniform; from the data it is half of
    sigma / alpha, as e^-L dL is.
    """
    start, end = level(schedule, t), level(schedule, s)
    finite = jnp.isfinite(start)
    middle = jnp.where(finite, 0.5 * (jnp.where(finite, start, 0.0) + end), end + jnp.sign(start) * math.log(2))
    middle = jnp.where(finite & jnp.isneginf(end), start - math.log(2), middle)
    return schedule.inverse(2 * jnp.where(jnp.isfinite(middle), middle, 0.0))  # a step to the data has no midpoint


def by_midpoint(
    process: Process,
    denoise: Denoiser,
    x: Float[Array, "B ..."],
    x0: Float[Array, "B ..."],
    t: Float[Array, ""],
    s: Float[Array, ""],
) -> tuple[Float[Array, "B ..."], Float[Array, "B ..."]]:
    """The step from t to s with what one more call finds half-way: by its denoised value, and by its noise."""
    at, m, to = process.schedule(t), midpoint(process.schedule, t, s), process.schedule(s)
    middle = process.schedule(m)
    x_m = carry(x, x0, at, middle)
    second = denoise(x_m, m)
    return carry(x, second, at, to), carry_noise(x, noise_in(x_m, second, *middle), at, to)
