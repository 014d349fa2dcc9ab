"""A grid from times that the caller has."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.types import is_traced


def from_times(times: Float[Array, "..."], *, length: int | None = None) -> Float[Array, " N"]:
    """A grid from the caller's own times.

    Args:
        times: shape (steps + 1,), each in [0, 1], monotone (decreasing to sample, increasing to invert); equal
            neighbours are steps that do nothing, which pads several grids to one length.
        length: pad to shape (length + 1,) with the last time.

    Raises:
        ValueError: not one axis of two times or more, outside [0, 1], not monotone, or longer than `length`.
    """
    times = jnp.asarray(times, jnp.result_type(float))
    if times.ndim != 1 or times.shape[0] < 2:
        raise ValueError(f"a grid needs shape (steps + 1,) with steps >= 1, got {times.shape}")
    if not is_traced(times):
        steps = times[1:] - times[:-1]
        if not ((times >= 0) & (times <= 1)).all() or not ((steps <= 0).all() or (steps >= 0).all()):
            raise ValueError(f"a grid must be monotone within [0, 1] (0 = data, 1 = noise), got {times}")
    if length is None:
        return times
    if length < times.shape[0] - 1:
        raise ValueError(f"{times.shape[0] - 1} steps do not fit into length = {length}: raise length or leave it out")
    return jnp.pad(times, (0, length + 1 - times.shape[0]), mode="edge")
