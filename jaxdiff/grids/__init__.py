"""Grids: the times a sampler visits, `(schedule, steps, *, ...) -> times` of shape (steps + 1,).

Every grid decreases to exactly 0, the data, and starts at exactly 1, pure noise (`leading` alone starts below it, by
its definition). Bounds given as keywords concern the interior: noise scales sigma / alpha are infinite at t = 1 for
schedules without signal there, and zero at t = 0.

`steps` is an int, or a traced integer beside a static `length`: the result then has shape (length + 1,), its first
steps + 1 entries are the grid of `steps`, and the rest repeat its last time. A step between equal times does nothing in
`sample`, so one compilation serves every number of steps up to `length`.
"""

from jaxdiff.grids.blockwise import blockwise
from jaxdiff.grids.given import from_times
from jaxdiff.grids.in_noise import karras, logsnr, poly_exponential
from jaxdiff.grids.in_time import beta, linear_quadratic, quadratic, uniform
from jaxdiff.grids.of_tables import leading, linspace, trailing
from jaxdiff.grids.optimized import optimized

__all__ = [
    "beta",
    "blockwise",
    "from_times",
    "karras",
    "leading",
    "linear_quadratic",
    "linspace",
    "logsnr",
    "optimized",
    "poly_exponential",
    "quadratic",
    "trailing",
    "uniform",
]
