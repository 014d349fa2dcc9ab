"""The ELBO in continuous time (arXiv 2107.00630, eq. 11 and 17), from the three terms that a process defines:

-log p(x0) <= prior_kl(x0) + integral over [t_min, 1] of E rate(x0, denoise(x_t, t), t, x_t) dt
              + reconstruction(x0, t_min)
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxdiff import noise
from jaxdiff.processes import Discrete, Gaussian, Nested, Ordinal
from jaxdiff.rates import logsnr
from jaxdiff.types import Data, Denoiser, Scalar


def elbo(
    key: Key[Array, ""],
    process: Gaussian | Discrete | Ordinal | Nested,
    denoise: Denoiser,
    x0: Data,
    *,
    t_min: Scalar = 1e-3,
    draws: int = 64,
    first: int | Int[Array, ""] = 0,
) -> Float[Array, " B"]:
    """A Monte-Carlo estimate of the lower bound on log p(x0); its mean over keys is a bound for every denoiser.

    Two things lower its variance and leave its mean alone. Times are stratified over the draws and log-uniform in
    s = sigma / (alpha + sigma), where the Gaussian integrand, (1 - s) |x0 - denoised|^2 / s^2, and that of tokens are
    bounded at both ends and the same for every schedule (arXiv 2107.00630, sec. 5.1). With alpha^2 + sigma^2 in s the
    slope of t would be infinite where no signal is left, and so the variance for tokens, whose rate is not 0 there.
    And a process may know a `control` variate, a rate with its mean over the noise: the Gaussian's is the linear
    denoiser's.

    Args:
        key: typed key.
        process: defines corrupt, rate, reconstruction and prior_kl; the `sigma_data` of a Gaussian's prediction scales
            its control.
        denoise: `(x_t, t) -> E[x0 | x_t]`, or log-probabilities of x0 for tokens.
        x0: data, shape (B, ...), or a pytree of them for `Nested`.
        t_min: where the integral starts, in (0, 1), and the process's own decoder takes over. For real data that is a
            Gaussian of standard deviation sigma / alpha: the bound is loose where that is not small beside the finest
            detail of the data.
        draws: noisy copies of each example.
        first: index of the first example: the noise of example i depends only on the key and on `first + i`.

    Returns:
        Nats for each example, shape (B,).
    """
    batch = jax.tree.leaves(x0)[0].shape[0]
    schedule, start = process.schedule, jnp.asarray(t_min)
    control = getattr(process, "control", None)
    # log s = -softplus(logsnr / 2), and its inverse.
    log_s = lambda t: -jax.nn.softplus(0.5 * logsnr(schedule, t))
    time = lambda log_s: schedule.inverse(2 * jnp.log(jnp.expm1(-log_s)))
    last, span = log_s(1.0), log_s(1.0) - log_s(start)

    def draw(i):
        keys = noise.fold(noise.sample_keys(key, batch, first), i)
        u = 1 - jax.vmap(jax.random.uniform)(noise.fold(keys, 0))  # in (0, 1]: never at a schedule's end without signal
        t, slope = jax.jvp(time, (last - span * (i + u) / draws,), (jnp.full(batch, span),))
        x_t, _ = process.corrupt(noise.fold(keys, 1), x0, t)
        rate = process.rate(x0, denoise(x_t, t), t, x_t)
        if control is not None:
            known, mean = control(x0, x_t, t)
            rate = rate - known + mean
        return slope * rate

    diffusion = jax.lax.map(draw, jnp.arange(draws)).mean(0)
    return -(process.prior_kl(x0) + diffusion + process.reconstruction(x0, start))
