"""Posterior guidance: the gradient of log p(y | x_t), for y = A x0 + noise, moves the denoised value.

Where p(x0 | x_t) is normal with mean D(x_t) and covariance V, y given x_t is normal too, and

    E[x0 | x_t, y] = D + sigma^2 / alpha J' A' (noise_std^2 + A V A')^-1 (y - A D),    J = dD / dx_t.

PiGDM takes for V that of data N(0, sigma_data^2) (Song et al., ICLR 2023); MMPS the model's own, V = sigma^2 / alpha J
(Tweedie; arXiv 2405.13712). Both are exact for normal data, PiGDM only for those of its V.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.conditioning.conjugate_gradients import conjugate_gradients
from jaxdiff.conditioning.operators.protocol import check, solve
from jaxdiff.types import (
    Condition,
    Denoiser,
    Process,
    Scalar,
    Time,
    as_pytree,
    expand,
    is_traced,
    per_sample,
    pytree,
    static,
)


@pytree
class PosteriorGuided:
    """The denoiser that `PiGDM` and `MMPS` make; iterations = 0 is the former."""

    denoise: Denoiser
    operator: Any
    process: Process
    y: Float[Array, "B ..."] = per_sample()
    noise_std: Scalar
    sigma_data: Scalar = 1.0
    iterations: int = static(default=0)

    def __call__(self, x: Float[Array, "B ..."], t: Time, cond: Condition = None) -> Float[Array, "B ..."]:
        x0, pullback = jax.vjp(lambda x: self.denoise(x, t, cond), x)
        alpha, sigma = (jnp.asarray(a) for a in self.process.schedule(t))
        usable = (alpha > 0) & (sigma > 0)
        factor = expand(jnp.where(usable, sigma**2 / jnp.where(usable, alpha, 1.0), 0.0), x)
        back = lambda v: factor * pullback(self.operator.adjoint(v))[0]
        missing, variance = self.y - self.operator(x0), self.noise_std**2
        if self.iterations:
            weighed = conjugate_gradients(
                lambda v: variance * v + self.operator(back(v)), missing, iterations=self.iterations
            )
        else:
            spread = (self.sigma_data * sigma) ** 2 / ((self.sigma_data * alpha) ** 2 + sigma**2)
            weighed = solve(self.operator, missing, jnp.where(usable, spread, 1.0), jnp.asarray(variance))
        return x0 + back(weighed)


def PiGDM(
    denoise: Denoiser,
    operator: Any,
    y: Float[Array, "B ..."],
    process: Process,
    *,
    noise_std: Scalar = 0.0,
    sigma_data: Scalar = 1.0,
) -> PosteriorGuided:
    """Pseudo-inverse guidance (Song et al., Pseudoinverse-Guided Diffusion Models, ICLR 2023, eq. 7).

    V = sigma^2 sigma_data^2 / (alpha^2 sigma_data^2 + sigma^2), the posterior variance of N(0, sigma_data^2) data, for
    which it is exact. One call and its gradient each.

    Args:
        denoise: `(x, t, cond) -> x0`, differentiable in x.
        operator: A, from `operators` or one's own.
        y: measurements (B, ...) = A x0 + noise_std z.
        process: a Gaussian process; its schedule gives alpha and sigma.
        noise_std: >= 0, of y.
        sigma_data: standard deviation of a number of the data.

    Raises:
        ValueError: an operator without an adjoint, a negative noise_std.
    """
    return _guided(denoise, operator, y, process, noise_std, sigma_data=sigma_data)


def MMPS(
    denoise: Denoiser,
    operator: Any,
    y: Float[Array, "B ..."],
    process: Process,
    *,
    noise_std: Scalar = 0.0,
    iterations: int = 3,
) -> PosteriorGuided:
    """Moment-matching posterior sampling (arXiv 2405.13712, alg. 1), exact for any normal data in enough iterations.

    V = sigma^2 / alpha J is the covariance of x0 given x_t, and the system with A V A' is solved by conjugate
    gradients, each iteration one more gradient of the denoiser.

    Args:
        denoise, operator, y, process, noise_std: as for `PiGDM`.
        iterations: of conjugate gradients, at least 1; as many as y has numbers are exact.

    Raises:
        ValueError: as `PiGDM`; fewer than one iteration.
    """
    if iterations < 1:
        raise ValueError(f"iterations of conjugate gradients must be at least 1, got {iterations}")
    return _guided(denoise, operator, y, process, noise_std, iterations=iterations)


def _guided(
    denoise: Callable[..., Array], operator: Any, y: Array, process: Process, noise_std: Scalar, **options: Any
) -> PosteriorGuided:
    if not is_traced(noise_std) and noise_std < 0:
        raise ValueError(f"noise_std is a standard deviation and must be >= 0, got {noise_std}")
    return PosteriorGuided(
        denoise=as_pytree(denoise), operator=check(operator), process=process, y=y, noise_std=noise_std, **options
    )
