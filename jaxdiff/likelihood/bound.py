"""The ELBO in continuous time (arXiv 2107.00630, eq. 11 and 17), from the three terms that a process defines:

-log p(x0) <= prior_kl(x0) + integral over [t_min, 1] of E rate(x0, denoise(x_t, t), t) dt
              + reconstruction(x0, t_min)
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxdiff import noise
from jaxdiff.processes import Gaussian
from jaxdiff.rates import logsnr
from jaxdiff.types import Denoiser, Scalar, Time, expand


def elbo(
    key: Key[Array, ""],
    process: Gaussian,
    denoise: Denoiser,
    x0: Float[Array, "B ..."],
    *,
    t_min: Scalar = 1e-3,
    draws: int = 64,
    first: int | Int[Array, ""] = 0,
) -> Float[Array, " B"]:
    """A Monte-Carlo estimate of the lower bound on log p(x0); its mean over keys is a bound for every denoiser.

    Two things lower its variance and leave its mean alone. Times are stratified over the draws and log-uniform in
    s = sigma / sqrt(alpha^2 + sigma^2), where the integrand, |x0 - denoised|^2 / s^2, is bounded at both ends and the
    same for every schedule (arXiv 2107.00630, sec. 5.1). And the linear denoiser's rate, whose mean over the noise is
    known, is a control variate.

    Args:
        key: typed key.
        process: defines corrupt, rate, reconstruction and prior_kl; its prediction's `sigma_data` scales the control.
        denoise: `(x_t, t) -> E[x0 | x_t]`.
        x0: data, shape (B, ...).
        t_min: where the integral starts, in (0, 1). The decoder below it is a Gaussian of standard deviation
            sigma / alpha: the bound is loose where that is not small beside the finest detail of the data.
        draws: noisy copies of each example.
        first: index of the first example: the noise of example i depends only on the key and on `first + i`.

    Returns:
        Nats for each example, shape (B,).
    """
    batch = x0.shape[0]
    schedule, start = process.schedule, jnp.asarray(t_min)
    # log s = -softplus(logsnr) / 2, and its inverse.
    log_s = lambda t: -0.5 * jax.nn.softplus(logsnr(schedule, t))
    time = lambda log_s: schedule.inverse(jnp.log(jnp.expm1(-2 * log_s)))
    last, span = log_s(1.0), log_s(1.0) - log_s(start)

    def draw(i):
        keys = noise.fold(noise.sample_keys(key, batch, first), i)
        u = 1 - jax.vmap(jax.random.uniform)(noise.fold(keys, 0))  # in (0, 1]: never at a schedule's end without signal
        t, slope = jax.jvp(time, (last - span * (i + u) / draws,), (jnp.full(batch, span),))
        x_t, _ = process.corrupt(noise.fold(keys, 1), x0, t)
        control, mean = _linear_rate(process, x0, x_t, t)
        return slope * (process.rate(x0, denoise(x_t, t), t) - control + mean)

    diffusion = jax.lax.map(draw, jnp.arange(draws)).mean(0)
    return -(process.prior_kl(x0) + diffusion + process.reconstruction(x0, start))


def _linear_rate(
    process: Gaussian, x0: Float[Array, "B ..."], x_t: Float[Array, "B ..."], t: Time
) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
    """The rate of the denoiser c x_t, exact for N(0, sigma_data^2) data, and its mean over the noise in x_t.

    x0 - c x_t = (1 - c alpha) x0 - c sigma eps, so the mean square is |(1 - c alpha) x0|^2 + |c sigma 1|^2.
    """
    alpha, sigma = process.schedule(t)
    power = process.prediction.sigma_data**2
    c = alpha * power / (alpha**2 * power + sigma**2)
    noisy = jnp.broadcast_to(expand(c * sigma, x0), x0.shape)
    mean = process.rate(x0, expand(c * alpha, x0) * x0, t) + process.rate(noisy, jnp.zeros_like(x0), t)
    return process.rate(x0, expand(c, x0) * x_t, t), mean
