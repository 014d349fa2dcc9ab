"""What several solvers share: counting real steps and the slope of the probability-flow ODE."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxdiff.rates import rates
from jaxdiff.types import Process, Time


def real_steps(grid: Float[Array, " N"]) -> Int[Array, ""]:
    """Steps of a grid that move: equal neighbours pad a grid and cost nothing."""
    return jnp.sum(grid[1:] != grid[:-1])


def slope(
    process: Process, x: Float[Array, "B ..."], denoised: Float[Array, "B ..."], t: Time
) -> Float[Array, "B ..."]:
    """dx/dt = alpha' x0 + sigma' eps (arXiv 2011.13456, eq. 13)."""
    (alpha, sigma), (d_alpha, d_sigma) = rates(process.schedule, t)
    return d_alpha * denoised + d_sigma * noise_in(x, denoised, alpha, sigma)


def noise_in(
    x: Float[Array, "B ..."], denoised: Float[Array, "B ..."], alpha: Float[Array, ""], sigma: Float[Array, ""]
) -> Float[Array, "B ..."]:
    """eps = (x - alpha x0) / sigma; zero at sigma = 0, where an inversion starts from data without noise."""
    return jnp.where(sigma > 0, x - alpha * denoised, 0.0) / jnp.where(sigma > 0, sigma, 1.0)
