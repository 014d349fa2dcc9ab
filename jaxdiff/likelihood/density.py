"""The density of what the probability-flow ODE samples (arXiv 2011.13456, eq. 39; arXiv 1806.07366, eq. 8).

The ODE is solved in the coordinates in which it is easiest: data of the standard deviation sigma_data that the
process assumes, noise, and the angle between them (arXiv 2410.11081, sec. 3, "TrigFlow"),

    tan phi = sigma / (alpha sigma_data),    z = x_t / sqrt(alpha^2 sigma_data^2 + sigma^2) = process.inputs(x_t, t),
    dz/dphi = f(z) = (cos phi z - D(x_t, t) / sigma_data) / sin phi,    D = E[x0 | x_t],
    log p(x0) = log p(x_1) + n log |dx_1 / dz_1| + integral of div f dphi + n log |dz_0 / dx_0|,    n elements.

Every schedule is the same ODE here, walked through at another speed. Its slope is bounded, it is zero at the data,
where phi = 0, and zero everywhere for data N(0, sigma_data^2 I). So neither end needs a cut-off, and one grid of
angles serves all schedules.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jaxdiff import noise
from jaxdiff.likelihood import divergence
from jaxdiff.processes import Gaussian
from jaxdiff.solvers.steps import real_steps
from jaxdiff.types import Denoiser, Scalar, Time, is_traced, pytree

# The classical Runge-Kutta method of order 4: stage j stands at this share of the step, moved by this share of the
# previous slope, and counts with this weight.
_SHARES, _WEIGHTS = (0.0, 0.5, 0.5, 1.0), (1 / 6, 1 / 3, 1 / 3, 1 / 6)


@pytree
class FlowInfo:
    """What a density cost, and where the data went.

    Attributes:
        latent: x at t = 1, shape (B, ...): what a sampler of the same ODE starts from to arrive at the data.
        nfe: calls of `denoise` for one example; each is differentiated along D directions (exact) or `probes`.
    """

    latent: Float[Array, "B ..."]
    nfe: Int[Array, ""]


def angle_grid(process: Gaussian, steps: int, *, power: Scalar = 3.0) -> Float[Array, " N"]:
    """Times from exactly 0 to exactly 1 with equal steps in phi^(1 / power): the grid of `log_density`.

    Args:
        process: turns angles into times.
        steps: number of steps, >= 1; the error falls with the fourth power of it.
        power: 1 has equal angles; above that the grid is denser near the data, whose finest detail sets the error.
    """
    if steps < 1:
        raise ValueError(f"a grid needs at least 1 step, got {steps}")
    ramp = jnp.arange(1, steps) / steps
    return jnp.concatenate([jnp.zeros(1), _time(process, _angle(process, jnp.ones(())) * ramp**power), jnp.ones(1)])


def log_density(
    process: Gaussian,
    denoise: Denoiser,
    x0: Float[Array, "B ..."],
    grid: Float[Array, " N"] | None = None,
    *,
    key: Key[Array, ""] | None = None,
    probes: int | None = None,
    first: int | Int[Array, ""] = 0,
    chunk: int = 8,
) -> tuple[Float[Array, " B"], FlowInfo]:
    """log p(x0) in nats under the sampler that solves the probability-flow ODE with this denoiser exactly.

    It is a density, not a bound: it integrates to one for every denoiser. A learned one may bring it above or below
    `elbo`, which bounds another density, that of the reverse SDE (arXiv 2101.09258). Where the data lie on points or
    surfaces (integers, say) the true density is infinite: add uniform noise of a bin's width first.

    Pure: under `jax.jit`, `probes` and `chunk` are static. An example's result depends on itself and its index alone,
    provided that `denoise` treats examples independently.

    Args:
        process: its schedule, prior and `sigma_data`, which sets the scale of z and nothing else.
        denoise: `(x_t, t) -> E[x0 | x_t]`, differentiable in x_t; the activations of one call are kept.
        x0: data, shape (B, ...).
        grid: increasing times from near the data to exactly 1, shape (steps + 1,): `angle_grid(process, 64)` by
            default, or any of `grids` reversed, `grids.karras(schedule, 64)[::-1]`. One step is one step of order 4
            in phi, of four calls; equal neighbours do nothing. A grid that starts at some t > 0 takes alpha x0 for
            x_t and so gives the density of the data blurred by sigma / alpha there: use it where the network is not
            trained nearer to the data.
        key: typed key of the random directions; the divergence is exact, by D derivatives, where none is given.
        probes: random directions for each example in each call, >= 1, with `key`: the mean over keys is the exact
            result on the same grid. The directions are drawn anew in each call: with fixed ones, which adaptive
            solvers need (arXiv 1810.01367, sec. 3.1), the errors of all steps would add up.
        first: index of the first example, from which its directions are drawn: a batch may be cut into calls.
        chunk: directions whose derivatives are taken at once; changes memory, not the result.

    Returns:
        Nats for each example, shape (B,), and `FlowInfo`. `bits_per_dim` converts them.

    Raises:
        ValueError: only one of `key` and `probes`, an untyped key, or a grid that is not increasing or does not end
            at 1, where its values are known.
    """
    if (key is None) != (probes is None):
        raise ValueError("random directions need both key and probes; leave both out for the exact divergence")
    if key is not None and not noise.is_keys(key):
        raise ValueError(f"log_density needs a typed key from jax.random.key(seed), got an array of dtype {key.dtype}")
    if (probes is not None and probes < 1) or chunk < 1:
        raise ValueError(f"probes and chunk count directions and must be at least 1, got {probes} and {chunk}")
    if grid is None:
        grid = angle_grid(process, 64)
    _check(grid)
    x0 = x0.astype(jnp.promote_types(x0.dtype, jnp.float32))
    grid = grid.astype(x0.dtype)

    sigma_data, size = process.prediction.sigma_data, math.prod(x0.shape[1:])
    angles = _angle(process, grid)
    moves = grid[1:] != grid[:-1]
    # Where nothing moves any angle will do, but pi / 2 has no finite tangent.
    middle = _time(process, jnp.where(moves, 0.5 * (angles[1:] + angles[:-1]), 0.25 * jnp.pi))
    times = jnp.stack([grid[:-1], middle, middle, grid[1:]], axis=1)

    if key is None or probes is None:
        measure = lambda i, j, field, z: divergence.exact(field, z, chunk=chunk)
    else:
        keys = noise.sample_keys(key, x0.shape[0], first)
        source = lambda i, j: noise.fold(noise.fold(keys, i), j)
        measure = lambda i, j, field, z: divergence.hutchinson(source(i, j), field, z, probes, chunk=chunk)

    def slope(i, j, z):
        """dz/dphi and its divergence at stage j of step i."""
        t = times[i, j]
        alpha, sigma = process.schedule(t)
        scale = _scale(process, t)

        def field(z):
            cos, sin = alpha * sigma_data / scale, sigma / scale
            pull = cos * z - denoise(scale * z, t) / sigma_data
            return jnp.where(sigma > 0, pull, 0.0) / jnp.where(sigma > 0, sin, 1.0)

        return measure(i, j, field, z)

    def move(z, change, i):
        width = angles[i + 1] - angles[i]

        def stage(carry, j):
            last, step, gain = carry
            shares, weights = jnp.asarray(_SHARES, z.dtype), jnp.asarray(_WEIGHTS, z.dtype)
            here, div = slope(i, j, z + width * shares[j] * last)
            return (here, step + width * weights[j] * here, gain + width * weights[j] * div), None

        start = (jnp.zeros_like(z), jnp.zeros_like(z), change)
        (_, step, change), _ = jax.lax.scan(stage, start, jnp.arange(4))
        return z + step, change

    def body(carry, i):
        return jax.lax.cond(moves[i], move, lambda z, change, _: (z, change), *carry, i), None

    to_z = process.schedule(grid[0])[0] / _scale(process, grid[0])
    start = (to_z * x0, jnp.zeros(x0.shape[:1], x0.dtype))
    (z, change), _ = jax.lax.scan(body, start, jnp.arange(len(grid) - 1))
    to_x = _scale(process, grid[-1])
    total = process.prior_log_density(to_x * z) + change + size * (jnp.log(to_x) + jnp.log(to_z))
    return total, FlowInfo(latent=to_x * z, nfe=4 * real_steps(grid))


def _scale(process: Gaussian, t: Time) -> Float[Array, "..."]:
    """x / z, the standard deviation of x_t if sigma_data is that of the data."""
    alpha, sigma = process.schedule(t)
    return jnp.sqrt((alpha * process.prediction.sigma_data) ** 2 + sigma**2)


def _angle(process: Gaussian, t: Time) -> Float[Array, "..."]:
    alpha, sigma = process.schedule(t)
    return jnp.arctan2(sigma, alpha * process.prediction.sigma_data)


def _time(process: Gaussian, angle: Float[Array, "..."]) -> Float[Array, "..."]:
    """The time of an angle strictly between 0 and pi / 2."""
    return process.schedule.inverse(-2 * jnp.log(process.prediction.sigma_data * jnp.tan(angle)))


def _check(grid: Float[Array, " N"]) -> None:
    if grid.ndim != 1 or grid.shape[0] < 2:
        raise ValueError(f"grid must have shape (steps + 1,) with steps >= 1, got {grid.shape}")
    if is_traced(grid):
        return
    values = np.asarray(grid)
    if not (np.diff(values) >= 0).all():
        raise ValueError(f"grid must increase from the data to 1; reverse a sampler's with grid[::-1], got {values}")
    if values[0] < 0 or values[-1] != 1:
        raise ValueError(f"grid must end at exactly 1, where the prior is, and start at t >= 0, got {values}")
