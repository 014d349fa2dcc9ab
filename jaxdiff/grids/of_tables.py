"""Grids on a table of training timesteps: the three spacings of arXiv 2305.08891, table 2.

A table has K entries and entry k stands at t = (k + 1) / K, as in `schedules.FromBetas`, so these grids visit exactly
the times that a network trained on the table has seen. They are what diffusers' schedulers call `timestep_spacing`,
with three differences, each of them a known mistake there:

- the last step goes to t = 0 exactly, from entry 0 or wherever the spacing ends, not to a copy of entry 0;
- a step's end is the next time of the same array, never its start less K // steps, which is another entry whenever
  `steps` does not divide K;
- a single step of `linspace` starts at the noise, not at entry 0.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.grids.ramp import Steps, ramp
from jaxdiff.types import Schedule, is_traced


def trailing(
    schedule: Schedule, steps: Steps, *, timesteps: int = 1000, length: int | None = None
) -> Float[Array, " N"]:
    """Equal steps counted from the noise, t_i = round(K (1 - i / steps)) / K: the spacing that the paper recommends.

    Args:
        schedule: not used; meant for one made of a table of `timesteps` betas.
        steps, length: number of steps, at most `timesteps`, see `jaxdiff.grids`.
        timesteps: K, entries of the table.

    Raises:
        ValueError: more steps than entries.
    """
    r = ramp(steps, length, most=timesteps)
    return r.close(jnp.round(timesteps * (r.n - r.i) / r.n) / timesteps)


def leading(
    schedule: Schedule, steps: Steps, *, timesteps: int = 1000, offset: int = 0, length: int | None = None
) -> Float[Array, " N"]:
    """Equal whole strides counted from the data, t_i = ((steps - 1 - i) (K // steps) + offset + 1) / K, then 0.

    It starts below t = 1: at 0.981 for 50 of 1000. Sampling from the prior there is the flaw that the paper describes;
    this grid exists to reproduce results that were obtained with it.

    Args:
        schedule, steps, timesteps, length: as in `trailing`.
        offset: diffusers' `steps_offset`, entries added to each but the last time; 1 for Stable Diffusion. In
            [0, timesteps // steps).

    Raises:
        ValueError: more steps than entries, or an offset outside its range.
    """
    r = ramp(steps, length, most=timesteps)
    stride = timesteps // r.n
    fits = (offset >= 0) & (offset < stride)
    if not is_traced(steps) and not fits:
        raise ValueError(f"offset must lie in [0, timesteps // steps) = [0, {stride}), got {offset}; use fewer steps")
    times = ((r.n - 1 - r.i) * stride + offset + 1) / timesteps
    return r._replace(valid=r.valid & fits).close(times, first=False)


def linspace(
    schedule: Schedule, steps: Steps, *, timesteps: int = 1000, length: int | None = None
) -> Float[Array, " N"]:
    """Entries K - 1 to 0 in equal steps, t_i = (round((K - 1) (1 - i / (steps - 1))) + 1) / K, then 0.

    Its last step, from 1 / K to 0, is as short as one of K.

    Args:
        schedule, steps, timesteps, length: as in `trailing`.

    Raises:
        ValueError: more steps than entries.
    """
    r = ramp(steps, length, most=timesteps)
    last = jnp.maximum(r.n - 1, 1)
    return r.close((jnp.round((timesteps - 1) * (last - r.i) / last) + 1) / timesteps)
