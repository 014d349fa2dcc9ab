"""DDNM: what was measured is put in, what was not is left to the model (arXiv 2212.00490).

x0' = x0 + A^+ (y - A x0):    A x0' = y, and the part of x0 that A does not see stays.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff import noise
from jaxdiff.conditioning.operators.protocol import check, pseudo_inverse
from jaxdiff.types import Condition, Denoiser, Noise, Process, Scalar, Time, as_pytree, per_sample, pytree


@pytree
class NullSpace:
    """The denoiser that `DDNM` makes."""

    denoise: Denoiser
    operator: Any
    y: Float[Array, "B ..."] = per_sample()

    def __call__(self, x: Float[Array, "B ..."], t: Time, cond: Condition = None) -> Float[Array, "B ..."]:
        x0 = self.denoise(x, t, cond)
        return x0 + pseudo_inverse(self.operator, self.y - self.operator(x0))


def DDNM(denoise: Denoiser, operator: Any, y: Float[Array, "B ..."]) -> NullSpace:
    """The denoiser whose values agree with y = A x0, for measurements without noise (arXiv 2212.00490, eq. 13).

    Samples agree with y to rounding, with any solver whose last step ends at the data. Their law is not the posterior:
    the model is not asked how likely its value is to have been measured as y. One call each.

    Args:
        denoise: `(x, t, cond) -> x0`.
        operator: A, from `operators` or one's own.
        y: measurements (B, ...), in the range of A.

    Raises:
        ValueError: an operator without an adjoint.
    """
    return NullSpace(denoise=as_pytree(denoise), operator=check(operator), y=y)


@pytree
class DDNMPlus:
    """DDNM+ for noisy measurements: an ancestral step that adds no noise twice (arXiv 2212.00490, eq. 17).

        x0' = x0 + lambda A^+ (y - A x0),    x_s = a x0' + b x_t + e,    lambda = min(1, std / (a d)),

    with the bridge's a, b and std, d = noise_std / sqrt(c) for A A' = c, and e normal with the bridge's covariance
    less that of a lambda A^+ (noise of y). Near the data less of y is used, none at the last step.

    Args:
        operator: A with A A' a multiple `gram` of the identity on its range: `Mask` (1), `AveragePool` (1 / factor^2),
            `Fourier` (1), orthonormal rows (1).
        y: measurements (B, ...) = A x0 + noise_std z.
        noise_std: > 0; may be traced.
        gram: c.
    """

    operator: Any
    y: Float[Array, "B ..."] = per_sample()
    noise_std: Scalar
    gram: Scalar = 1.0
    order = 1
    one_call = True

    def __post_init__(self):
        check(self.operator)

    def nfe(self, grid: Float[Array, " N"]) -> Array:
        return (grid[1:] != grid[:-1]).sum()

    def init(self, process: Process, x: Float[Array, "B ..."], grid: Float[Array, " N"]) -> tuple[()]:
        return ()

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
        (alpha_t, sigma_t), (alpha_s, sigma_s) = process.schedule(t), process.schedule(s)
        # q(x_s | x_t, x0) = N(a x0 + b x_t, std^2), arXiv 2107.00630, app. A.4.
        kept = alpha_t * sigma_s / (alpha_s * sigma_t)
        lost = (alpha_s * sigma_t - alpha_t * sigma_s) / (alpha_s * sigma_t)  # 1 - kept, free of cancellation
        b, std = sigma_s * kept / sigma_t, sigma_s * jnp.sqrt(jnp.maximum(lost * (1 + kept), 0.0))
        a = alpha_s - b * alpha_t
        spread = self.noise_std / jnp.sqrt(self.gram)
        share = jnp.minimum(1.0, std / (a * spread))
        x0 = denoise(x, t)
        seen = pseudo_inverse(self.operator, self.y - self.operator(x0))
        mean = a * (x0 + share * seen) + b * x
        z = noise.normal(keys, x)
        inside = pseudo_inverse(self.operator, self.operator(z))
        rest = jnp.sqrt(jnp.maximum(std**2 - (a * share * spread) ** 2, 0.0))
        return mean + std * (z - inside) + rest * inside, state
