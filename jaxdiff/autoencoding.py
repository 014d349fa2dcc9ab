"""The objective of an autoencoder with a Gaussian bottleneck (arXiv 1312.6114 eq. 10; the weight of 2112.10752 app. G).

    q(z | x) = N(m, s^2),    z = m + s eps
    loss = mean_i e(x_i - D(z)_i) + weight KL / n

    KL = KL(q(z | x) | N(0, 1)) = sum_j (m_j^2 + s_j^2 - 1) / 2 - log s_j    nats an example of n numbers

e is the absolute value or the square. Weight 1 and e(d) = d^2 / (2 c) with a constant c would be the evidence bound;
the small weight of latent diffusion only keeps the latents near the origin and smooth.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff import noise

Objective: TypeAlias = Callable[..., tuple[Float[Array, " B"], dict[str, Float[Array, " B"]]]]


def kl(mean: Float[Array, "B ..."], log_std: Float[Array, "B ..."]) -> Float[Array, " B"]:
    """KL(N(mean, exp(log_std)^2) | N(0, 1)) of each example, in nats, summed over its numbers."""
    terms = 0.5 * (jnp.square(mean) + jnp.exp(2 * log_std) - 1) - log_std
    return terms.reshape(terms.shape[0], -1).sum(1)


def reconstruction(
    encode: Callable[..., Any],
    decode: Callable[..., Any],
    *,
    kl_weight: float | Float[Array, ""] = 1e-4,
    error: Callable[[Array], Array] = jnp.abs,
) -> Objective:
    """The objective that `make_step(..., objective=)` takes; process, network and times of the step are not used.

    ```python
    init, encode, decode = networks.encoder_decoder(make)
    step = make_step(process, encode, optimizer, objective=reconstruction(encode, decode))
    ```

    Args:
        encode, decode: see `networks.encoder_decoder`; on the same parameters.
        kl_weight: of the KL, as a share of the reconstruction's sum over an example's numbers; at least 0.
        error: of each number of the difference; `jnp.abs` or `jnp.square`.

    Returns:
        `objective(apply, params, ema, keys, batch, t) -> (loss (B,), metrics)` with the metrics `error` and `kl` (B,).

    Raises:
        ValueError: a negative weight.
    """
    if isinstance(kl_weight, int | float) and kl_weight < 0:
        raise ValueError(f"kl_weight must not be negative, got {kl_weight}; 0 leaves the KL out")

    def objective(apply, params, ema, keys, batch, t):
        x0 = batch["x0"]
        mean, log_std = encode(params, x0)
        z = mean + jnp.exp(log_std) * noise.normal(keys, mean)
        lost = error(decode(params, z) - x0).reshape(x0.shape[0], -1)
        nats = kl(mean, log_std)
        loss = lost.mean(1)
        return loss + kl_weight * nats / lost.shape[1], {"error": loss, "kl": nats}

    return objective
