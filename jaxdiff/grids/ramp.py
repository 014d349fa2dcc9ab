"""What all grids share: counting their steps, known or traced, and closing their ends."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxdiff.types import is_traced

Steps = int | Int[Array, ""]


class Ramp(NamedTuple):
    """The steps of a grid, counted.

    Attributes:
        i: steps taken on arrival at each time: 0, 1, ..., n, then n again up to entry `length`; shape (length + 1,).
        n: number of steps, >= 1, in integers.
        valid: whether n is what was asked for. A traced number of steps cannot be refused, so the grid is made of NaN
            where it is not, by `close`: no formula meets a NaN, because `exp` of one that a `where` selects leaves the
            output unwritten on CPU in jaxlib 0.10.2.
    """

    i: Float[Array, " N"]
    n: Steps
    valid: Bool[Array, ""] | bool

    def close(self, times: Float[Array, " N"], *, first: bool = True) -> Float[Array, " N"]:
        """`times` with exactly 0 at the end and, if `first`, exactly 1 at the start."""
        times = jnp.where(self.i >= self.n, 0.0, times)
        times = jnp.where(self.i == 0, 1.0, times) if first else times
        return jnp.where(self.valid, times, jnp.nan)


def ramp(steps: Steps, length: int | None, most: int | None = None) -> Ramp:
    """Count `steps`.

    Args:
        steps: number of steps, >= 1.
        length: entries behind the first, >= steps; `steps` itself if None. Required where `steps` is traced.
        most: the largest number of steps that the grid is defined for.

    Raises:
        ValueError: fewer than one step, more than `length` or `most`, or traced without a `length`.
    """
    if is_traced(steps):
        if length is None:
            raise ValueError(
                "steps is traced, so it cannot give the grid its shape: pass length, the most steps needed"
            )
        n = jnp.clip(steps, 1, min(length, most or length))
        return Ramp(_count(n, length), n, n == steps)
    n, length = int(steps), int(steps) if length is None else length
    if n < 1:
        raise ValueError(f"a grid needs at least 1 step, got {n}")
    if n > length:
        raise ValueError(f"{n} steps do not fit into length = {length}: raise length or leave it out")
    if most is not None and n > most:
        raise ValueError(f"a table of {most} timesteps has no more than {most} steps, got {n}")
    return Ramp(_count(n, length), n, True)


def _count(n: Steps, length: int) -> Float[Array, " N"]:
    return jnp.minimum(jnp.arange(length + 1), n).astype(jnp.result_type(float))
