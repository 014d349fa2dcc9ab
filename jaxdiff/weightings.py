"""Weightings: the weight of an example's loss at time t, relative to the squared error of v.

The error e of a prediction stands in fixed ratios to the errors of the others (from x0's error e_x0),

    |e_v| = (alpha^2 + sigma^2) / sigma |e_x0|,    |e_eps| = alpha / sigma |e_x0|,

and v's is bounded at both ends, so a weighting written relative to it never multiplies zero by infinity. The same
weighting gives the same loss whatever the network predicts.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.rates import rates
from jaxdiff.types import Scalar, Schedule, Time, is_traced, pytree


@pytree
class v:
    """The squared error of v: weight 1 (arXiv 2202.00512, "SNR + 1")."""

    def __call__(self, schedule: Schedule, t: Time) -> Float[Array, "..."]:
        alpha, _ = schedule(t)
        return jnp.ones_like(alpha)


@pytree
class eps:
    """The squared error of eps, DDPM's simple loss (arXiv 2006.11239, eq. 14): (alpha / (alpha^2 + sigma^2))^2."""

    def __call__(self, schedule: Schedule, t: Time) -> Float[Array, "..."]:
        alpha, sigma = schedule(t)
        return (alpha / (alpha**2 + sigma**2)) ** 2


@pytree
class x0:
    """The squared error of x0: (sigma / (alpha^2 + sigma^2))^2."""

    def __call__(self, schedule: Schedule, t: Time) -> Float[Array, "..."]:
        alpha, sigma = schedule(t)
        return (sigma / (alpha**2 + sigma**2)) ** 2


@pytree
class velocity:
    """The squared error of dx/dt, the flow-matching loss on RectifiedFlow (arXiv 2210.02747).

    ((alpha sigma' - sigma alpha') / (alpha^2 + sigma^2))^2. Where sigma is a square root of t near the data
    (LinearBeta, FromBetas) it grows like 1 / t: keep the training times away from 0, or use another weighting.
    """

    def __call__(self, schedule: Schedule, t: Time) -> Float[Array, "..."]:
        (alpha, sigma), (d_alpha, d_sigma) = rates(schedule, t)
        return ((alpha * d_sigma - sigma * d_alpha) / (alpha**2 + sigma**2)) ** 2


@pytree
class edm:
    """EDM's lambda(sigma), which makes the loss of its F equal at every noise scale (arXiv 2206.00364, table 1).

    With sigma_hat = sigma / alpha, lambda = (sigma_hat^2 + sigma_data^2) / (sigma_hat sigma_data)^2 on x0's error.

    Args:
        sigma_data: standard deviation of the data.
    """

    sigma_data: Scalar = 0.5

    def __call__(self, schedule: Schedule, t: Time) -> Float[Array, "..."]:
        alpha, sigma = schedule(t)
        var = sigma**2 + (alpha * self.sigma_data) ** 2
        return var / (self.sigma_data * (alpha**2 + sigma**2)) ** 2


@pytree
class min_snr:
    """min(SNR, gamma) on x0's error (arXiv 2303.09556, sec. 3.4).

    Args:
        gamma: bound of the weight, > 0.
    """

    gamma: Scalar = 5.0

    def __call__(self, schedule: Schedule, t: Time) -> Float[Array, "..."]:
        alpha, sigma = schedule(t)
        return jnp.minimum(alpha**2, self.gamma * sigma**2) / (alpha**2 + sigma**2) ** 2


@pytree
class p2:
    """1 / (k + SNR)^gamma on eps's error, for less weight on the last details (arXiv 2204.00227).

    The paper's lambda_t is what turns the bound into DDPM's simple loss, eps's error.

    Args:
        k: keeps the weight finite at SNR = 0, > 0.
        gamma: strength, >= 0; 0 is `eps`, the paper takes 0.5 and 1.

    Raises:
        ValueError: `k` <= 0.
    """

    k: Scalar = 1.0
    gamma: Scalar = 1.0

    def __post_init__(self):
        if not is_traced(self.k) and not float(self.k) > 0:
            raise ValueError(
                f"k must be above 0, got {self.k}: the weight would be infinite at SNR = 0; the paper has 1"
            )

    def __call__(self, schedule: Schedule, t: Time) -> Float[Array, "..."]:
        alpha, sigma = schedule(t)
        share = sigma**2 / (self.k * sigma**2 + alpha**2)
        return (alpha / (alpha**2 + sigma**2)) ** 2 * share**self.gamma


@pytree
class sigmoid:
    """sigmoid(bias - logsnr) on eps's error, per unit of log-SNR (arXiv 2303.00848; 2410.19324).

    The weighted bound 1/2 int sigmoid(bias - logsnr) |e_eps|^2 dlogsnr, for uniform times: the factor -1/2 dlogsnr/dt
    is part of the weight, so the loss is the same on every schedule with the same range of log-SNR. Relative to v it is
    alpha sigma (alpha sigma' - sigma alpha') / ((sigma^2 + exp(-bias) alpha^2) (alpha^2 + sigma^2)^2).

    Args:
        bias: log-SNR where the weight is one half. A smaller one looks less at details, which suits larger pictures.
    """

    bias: Scalar = 0.0

    def __call__(self, schedule: Schedule, t: Time) -> Float[Array, "..."]:
        (alpha, sigma), (d_alpha, d_sigma) = rates(schedule, t)
        slope = alpha * sigma * (alpha * d_sigma - sigma * d_alpha)  # -1/2 dlogsnr/dt (alpha sigma)^2
        return slope / ((sigma**2 + jnp.exp(-self.bias) * alpha**2) * (alpha**2 + sigma**2) ** 2)
