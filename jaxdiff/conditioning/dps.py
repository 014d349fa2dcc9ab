"""Diffusion posterior sampling: after each step, down the gradient of the distance to y (arXiv 2209.14687)."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxdiff.conditioning.operators.protocol import check
from jaxdiff.types import Denoiser, Noise, Process, Scalar, Solver, expand, per_sample, pytree


@pytree
class DPS:
    """inner's step to s, then x_s - scale / |r| grad |r|^2 with r = y - A D(x_t) (arXiv 2209.14687, alg. 1).

    The gradient is with respect to x_t and, for |r|, that of a Gaussian likelihood up to its size, which `scale` sets:
    it is no posterior for any scale, and the best one depends on the number of steps. The paper's own are near 1 for
    pictures in [-1, 1] and 1000 steps of a schedule with alpha^2 + sigma^2 = 1.

    Args:
        inner: a solver that declares `one_call`; `solvers.Ancestral()` in the paper.
        operator: A, from `operators` or one's own.
        y: measurements (B, ...).
        scale: zeta'; may be traced.

    Raises:
        ValueError: an inner solver that calls its denoiser more than once a step; an operator without an adjoint.
    """

    inner: Solver
    operator: Any
    y: Float[Array, "B ..."] = per_sample()
    scale: Scalar = 1.0

    def __post_init__(self):
        check(self.operator)
        if not getattr(self.inner, "one_call", False):
            raise ValueError(
                "DPS needs an inner solver that calls its denoiser once a step, at (x, t), and declares one_call = "
                f"True, got {type(self.inner).__name__}; solvers.Ancestral() is the paper's"
            )

    @property
    def order(self) -> int:
        return self.inner.order

    def nfe(self, grid: Float[Array, " N"]) -> Int[Array, ""]:
        return self.inner.nfe(grid)

    def init(self, process: Process, x: Float[Array, "B ..."], grid: Float[Array, " N"]) -> Any:
        return self.inner.init(process, x, grid)

    def step(
        self,
        keys: Noise,
        process: Process,
        denoise: Denoiser,
        x: Float[Array, "B ..."],
        t: Float[Array, ""],
        s: Float[Array, ""],
        state: Any,
    ) -> tuple[Float[Array, "B ..."], Any]:
        x0, pullback = jax.vjp(lambda x: denoise(x, t), x)
        known = lambda x, t, cond=None: x0
        x_s, state = self.inner.step(keys, process, known, x, t, s, state)
        missing = self.y - self.operator(x0)
        size = jnp.sqrt((missing**2).sum(tuple(range(1, missing.ndim))))
        (gradient,) = pullback(self.operator.adjoint(missing))
        rate = jnp.where(size > 0, 2 * self.scale / jnp.where(size > 0, size, 1.0), 0.0)
        return x_s + expand(rate, x) * gradient, state
