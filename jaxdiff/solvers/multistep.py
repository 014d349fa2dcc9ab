"""Multistep methods: a step's average of a function from its values at this and earlier times (Adams-Bashforth).

The function f (denoised value, noise or slope) is replaced by the polynomial through its last k values, whose average
over the step is taken exactly under a weight w(u), u in [0, 1] being the step's own fraction:

    mean = sum_j f_j  integral w(u) l_j(u) du / integral w(u) du,    l_j the Lagrange polynomials of the nodes u_j <= 0.

The weight enters through its moments alone: `exponential_moments` for solutions in log(alpha / sigma)
(arXiv 2211.01095, 2204.13902), `uniform_moments` for those in a variable of their own.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxdiff.solvers.steps import real_steps
from jaxdiff.types import Condition, Denoiser, Noise, Process, Solver, Time, pytree

_FAR = 1e4  # nodes that are not filled yet: apart from each other and from every real one


@pytree
class History:
    """The values of earlier steps, newest first.

    Attributes:
        values: arrays (B, ...).
        places: where in the integration variable they stand, scalars.
        count: how many of them are filled.
        taken: steps taken so far.
        left: real steps still to be taken, this one included.
    """

    values: tuple[Float[Array, "B ..."], ...]
    places: tuple[Float[Array, ""], ...]
    count: Int[Array, ""]
    taken: Int[Array, ""]
    left: Int[Array, ""]

    def order(self, highest: int, lower_final: bool) -> Int[Array, ""]:
        """The order of this step: `highest`, but no more than there are values, nor, on request, steps left."""
        order = jnp.minimum(highest, self.count + 1)
        return jnp.minimum(order, self.left) if lower_final else order

    def push(self, value: Float[Array, "B ..."], place: Float[Array, ""]) -> "History":
        """Add this step's value. An infinite place (alpha or sigma was 0) cannot be a node: the history starts anew."""
        finite = jnp.isfinite(place)
        return History(
            values=(value, *self.values)[: len(self.values)],
            places=(jnp.where(finite, place, _FAR), *self.places)[: len(self.places)],
            count=jnp.where(finite, jnp.minimum(self.count + 1, len(self.values)), 0),
            taken=self.taken + 1,
            left=self.left - 1,
        )


def begin(x: Float[Array, "B ..."], grid: Float[Array, " N"], depth: int) -> History:
    """An empty history of `depth` values for the steps of `grid`."""
    return History(
        values=(jnp.zeros_like(x),) * depth,
        places=tuple(jnp.asarray(_FAR * (j + 2), grid.dtype) for j in range(depth)),
        count=jnp.zeros((), jnp.int32),
        taken=jnp.zeros((), jnp.int32),
        left=real_steps(grid).astype(jnp.int32),
    )


def exponential_moments(rate: Float[Array, ""], count: int) -> list[Float[Array, ""]]:
    """E[u^k], k < `count`, for u in [0, 1] of density proportional to e^(rate u); any sign of the rate."""
    rate = jnp.asarray(rate)
    small = jnp.abs(rate) < 1
    series_rate, closed_rate = jnp.where(small, rate, 0.0), jnp.where(small, 1.0, rate)
    # Small: e^(rate u) term by term. Large: integration by parts, m_k = 1 / (1 - e^-rate) - k / rate m_(k-1).
    powers, factor = [], jnp.ones_like(rate)
    for n in range(20):
        powers.append(factor)
        factor = factor * series_rate / (n + 1)
    series = [sum(p / (n + k + 1) for n, p in enumerate(powers)) for k in range(count)]
    closed = [jnp.ones_like(rate)]
    for k in range(1, count):
        closed.append(-1 / jnp.expm1(-closed_rate) - k / closed_rate * closed[-1])
    return [jnp.where(small, s / series[0], c) for s, c in zip(series, closed, strict=True)]


def uniform_moments(count: int) -> list[float]:
    """E[u^k], k < `count`, for u uniform in [0, 1]."""
    return [1 / (k + 1) for k in range(count)]


def average(
    nodes: Sequence[Float[Array, ""]],
    values: Sequence[Float[Array, "B ..."]],
    moments: Sequence[Float[Array, ""] | float],
    order: Int[Array, ""] | int,
) -> Float[Array, "B ..."]:
    """The average over the step of the polynomial through the first `order` of `values`.

    Args:
        nodes: in units of the step, 0 at its beginning and 1 at its end; the first is this step's own.
        values: (B, ...) at the nodes.
        moments: E[u^k] of the weight, as many as nodes.
        order: from 1 to the number of nodes; may be traced.
    """
    rows = [_weights(nodes[:k], moments) + [0.0] * (len(nodes) - k) for k in range(1, len(nodes) + 1)]
    weights = jnp.stack([jnp.stack([jnp.asarray(w, values[0].dtype) for w in row]) for row in rows])[order - 1]
    # Differences from this step's value: exact where all values agree.
    return values[0] + sum(weights[j] * (values[j] - values[0]) for j in range(1, len(nodes)))


def _weights(nodes: Sequence[Float[Array, ""]], moments: Sequence[Float[Array, ""] | float]) -> list:
    """The averages of the Lagrange polynomials of `nodes`."""
    weights = []
    for j, node in enumerate(nodes):
        polynomial: list = [1.0]
        for i, other in enumerate(nodes):
            if i != j:
                gap = node - other
                up, down = [0.0, *polynomial], [*polynomial, 0.0]
                polynomial = [(a - other * b) / gap for a, b in zip(up, down, strict=True)]
        weights.append(sum(c * m for c, m in zip(polynomial, moments, strict=False)))
    return weights


def started(
    start: Solver | None,
    when: Array,
    step: Callable[[], Float[Array, "B ..."]],
    *,
    keys: Noise,
    process: Process,
    denoise: Denoiser,
    denoised: Float[Array, "B ..."],
    x: Float[Array, "B ..."],
    t: Float[Array, ""],
    s: Float[Array, ""],
) -> Float[Array, "B ..."]:
    """`step()`, or a step of the one-step solver `start` where `when`: it makes the history that `step` lacks.

    The starting solver's call at (x, t) has been made already: it gets `denoised` for it.
    """
    if start is None:
        return step()

    at = x, t

    def known(x: Any, t: Time, cond: Condition = None) -> Any:
        if x is at[0] and t is at[1]:
            return denoised
        return denoise(x, t) if cond is None else denoise(x, t, cond)

    def first():
        return start.step(keys, process, known, x, t, s, start.init(process, x, jnp.stack([t, s])))[0]

    return jax.lax.cond(when, first, step)


def started_nfe(start: Solver | None, grid: Float[Array, " N"], steps: int) -> Int[Array, ""]:
    """Calls of a one-call multistep solver on `grid` whose first `steps` real steps are taken by `start`."""
    calls = real_steps(grid)
    if start is None:
        return calls
    done = jnp.concatenate([jnp.zeros(1, int), jnp.cumsum(grid[1:] != grid[:-1])])
    # The grid of the first steps: afterwards it stands still.
    stop = grid[jnp.argmax(done == jnp.minimum(steps, calls))]
    return start.nfe(jnp.where(done <= steps, grid, stop)) + jnp.maximum(calls - steps, 0)
