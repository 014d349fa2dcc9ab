"""A grid for one denoiser: dense where the denoised data change along its own trajectories.

In the coordinates y = x / alpha and rho = sigma / alpha = exp(-u) the probability-flow ODE is dy/drho = (y - D) / rho,
DDIM is Euler's method, and a step of h in u makes the error h^2 |dD/du| / 2 in y. Steps of equal error are equal steps
of the integral of |dD/du|^(1/2) over u. The integral converges at both ends, t = 1 and t = 0, so they need no bounds;
since dD/du falls like rho^2 at the data, even the infinite last step gets an equal share.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.grids.in_noise import largest, logsnr
from jaxdiff.grids.ramp import Steps, ramp
from jaxdiff.types import Denoiser, Scalar, Schedule


def optimized(
    schedule: Schedule,
    steps: Steps,
    *,
    denoise: Denoiser,
    probes: Float[Array, "B ..."],
    sigma_min: Scalar = 0.001,
    sigma_max: Scalar = 1000.0,
    resolution: int = 128,
    length: int | None = None,
) -> Float[Array, " N"]:
    """Times at equal shares of the integral of w = |dD/du|^(1/2) (1 + rho^2 / c^2)^(-1/6) over u = log(alpha / sigma).

    |dD/du| is the root mean square, over probes and elements, of the change of the denoised data D along the solution
    that starts at each probe, and c is the standard deviation of the solutions' ends. An error in y at the noise scale
    rho arrives at the data multiplied by (1 + rho^2 / c^2)^(-1/2) if the data are normal, which would make the exponent
    1/4, and undiminished if it decides between separate modes, which would make it 0. The value in between has no
    derivation: it is the best compromise of five that were tried on the first two laws below.

    Measured as the root mean square distance from the exact solution, in 5, 8, 10, 15, 20 and 40 steps, against
    `uniform`, `quadratic`, `karras`, `logsnr`, `beta` and `linear_quadratic` with their defaults. Five laws: a mixture
    of three Gaussians in the plane and 599 pictures of digits blurred by 0.05, on which this function was designed; and
    mixtures of 8, 40 and 1 Gaussians in 16, 8 and 8 dimensions, looked at only afterwards. That is 30 cases for each
    solver and schedule; one draw of each law, 512 samples, no trained network.

    - DDIM: the best in all 30 on EDM, by 23 to 58 %, and in all 30 on RectifiedFlow, where it gains 1 to 6 % on
      `uniform`.
    - DPM-Solver++(2M) on EDM: the best in 28. It lost in 40 steps on 40 Gaussians (by 7 %) and in 5 steps on the single
      one, where `karras` has half its error.
    - DPM-Solver++(2M) on RectifiedFlow: the best in 2. Its error is 0.76 to 1.23 times that of `uniform` on four laws
      and 1.12 to 1.64 times on the single Gaussian: there, equal steps in t are the better choice, and free.

    The exponent 1/2 is DDIM's. With 1/3, as for a solver of second order, DPM-Solver++(2M) was better in 38 of 60 cases
    but up to 3.6 times worse in the others, and DDIM was worse in all. Of other weights tried on the first two laws,
    errors followed to the data by the adjoint equation or by leaving out one step at a time cost more and were not
    better on both. Align your steps (arXiv 2404.14507) itself was not run; a weight modelled on its objective,
    |rho^-1 dD/du|^(2/3), had 1.5 times the error or more. The grid knows nothing of a solver's random draws, and a
    distance to the exact sample is not a judgement of pictures.

    A pure function: `jax.jit` it with `denoise` as a pytree. It calls `denoise` `resolution` times on the probes, and
    its memory does not grow with the resolution.

    Args:
        schedule: `t -> (alpha, sigma)`.
        steps, length: number of steps, see `jaxdiff.grids`.
        denoise: the denoiser that will sample, guidance and condition included.
        probes: noise at t = 1, shape (B, ...), as `process.prior(keys, spec)` draws it; 64 are enough.
        sigma_min, sigma_max: noise scales between which D is examined; sigma_max is lowered to the schedule's own
            scale at t = 1 where that is smaller. No time but 0 lies below sigma_min.
        resolution: steps of the accurate solution, >= 2.

    Returns:
        Times, shape (steps + 1,) or (length + 1,), from exactly 1 to exactly 0.

    Raises:
        ValueError: probes that are not continuous data with a batch axis, or a resolution below 2.
    """
    if not jnp.issubdtype(probes.dtype, jnp.floating) or probes.ndim < 1:
        raise ValueError(f"probes must be noise of shape (B, ...), got {probes.dtype} of shape {probes.shape}")
    if resolution < 2:
        raise ValueError(f"resolution must be at least 2, got {resolution}")
    r = ramp(steps, length)
    high, low = jnp.log(largest(schedule, sigma_max)), jnp.log(jnp.asarray(sigma_min, r.i.dtype))
    log_rho = jnp.linspace(high, low, resolution)
    fine = logsnr(schedule, resolution, sigma_min=sigma_min, sigma_max=sigma_max)

    def step(carry, j):
        x, before = carry
        (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(fine[j]), schedule(fine[j + 1])
        denoised = denoise(x, fine[j])
        x = alpha_s * denoised + sigma_s * (x - alpha_t * denoised) / sigma_t
        return (x.astype(probes.dtype), denoised), jnp.sqrt(jnp.mean((denoised - before).astype(r.i.dtype) ** 2))

    start = (probes, jnp.zeros_like(jax.eval_shape(denoise, probes, fine[0])))
    (x, _), change = jax.lax.scan(step, start, jnp.arange(resolution))

    rho = jnp.exp(0.5 * (log_rho[1:] + log_rho[:-1]))
    c = jnp.maximum(jnp.std(x.astype(r.i.dtype)), jnp.finfo(r.i.dtype).eps)
    weight = jnp.sqrt(change[1:]) * (1 + (rho / c) ** 2) ** (-1 / 6)
    # A little everywhere: the grid decreases strictly even where D stands still, or everywhere if D never moves.
    weight = weight + 1e-3 * weight.mean() + jnp.finfo(r.i.dtype).eps
    share = jnp.concatenate([jnp.zeros(1, r.i.dtype), jnp.cumsum(weight)])
    return r.close(schedule.inverse(-2 * jnp.interp(r.i / r.n, share / share[-1], log_rho)))
