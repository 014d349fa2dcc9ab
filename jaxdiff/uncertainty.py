"""A weight for each noise level that is learned with the network (arXiv 2312.02696, eq. 21; 1705.07115).

Where the loss of an objective is L, the one to minimise here is, example by example,

    exp(-u(t)) L + u(t).

For a given network the best u is u(t) = log E[L | t]. The gradient of the network is then divided by the loss that is
left at its own noise level, and a weighting inside L cancels.

u is linear in n fixed features of c(t) = log(t / (1 - t)) / 4, which on RectifiedFlow is EDM's log(sigma / alpha) / 4:

    u(t) = sum_i w_i sqrt(2 / n) (cos or sin)(2 pi f_i c(t)),    f_i the quantiles of |N(0, 1)|.

With w = 0 at first it starts as the objective itself.
"""

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any, TypeAlias

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxdiff.types import Params, Time

Objective: TypeAlias = Callable[..., tuple[Float[Array, " B"], dict[str, Float[Array, " B"]]]]
Init: TypeAlias = Callable[[Key[Array, ""], Params], dict[str, Params]]

_END = 1e-5  # c(t) is the same for all times closer than this to an end


def learned(objective: Objective, *, features: int = 128) -> tuple[Init, Objective]:
    """An objective whose weight is learned, and the parameters that it needs.

    ```python
    init, objective = uncertainty.learned(denoising(process))
    state = TrainState.create(init(key, params), optimizer)
    step = make_step(process, apply, optimizer, objective=objective)
    ```

    The network to sample with is then `state.ema["network"]`. Weight decay would pull u towards 0: mask it there.

    Args:
        objective: `(apply, params, ema, keys, batch, t) -> (loss (B,), metrics of (B,))` with losses above 0, such as
            `training.denoising`.
        features: how many weights u has; even, at least 2.

    Returns:
        `init(key, params) -> {"network": params, "uncertainty": {"weight": zeros}}`, which draws nothing from its key,
        and the objective on such parameters. It adds the metric `uncertainty`, u, to those of the objective inside.

    Raises:
        ValueError: `features` odd or below 2; at the call, parameters that are not from `init`.
    """
    if features < 2 or features % 2:
        raise ValueError(
            f"features must be even and at least 2, a cosine and a sine for each frequency, got {features}"
        )

    def init(key: Key[Array, ""], params: Params) -> dict[str, Params]:
        return {"network": params, "uncertainty": {"weight": jnp.zeros(features)}}

    def weighted(apply, params, ema, keys, batch, t):
        network, average = _network(params), _network(ema)
        loss, metrics = objective(apply, network, average, keys, batch, t)
        u = log_error(params["uncertainty"], t)
        return jnp.exp(-u) * loss + u, {**metrics, "uncertainty": u}

    return init, weighted


def log_error(params: Params, t: Time) -> Float[Array, "..."]:
    """u(t), the learned log of the expected loss.

    Args:
        params: what `init` gave under "uncertainty".
        t: times in [0, 1], any shape.

    Returns:
        An array of the shape of `t`.
    """
    weight, t = params["weight"], jnp.asarray(t)
    pairs = weight.shape[0] // 2
    quantiles = [NormalDist().inv_cdf(0.5 + (i + 0.5) / (2 * pairs)) for i in range(pairs)]
    c = (jnp.log(t + _END) - jnp.log(1 - t + _END)) / 4
    angles = 2 * math.pi * jnp.multiply.outer(c, jnp.asarray(quantiles, c.dtype))
    waves = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)
    return jnp.matmul(waves, weight, precision="highest") / math.sqrt(pairs)


def _network(params: Any) -> Params:
    if not isinstance(params, dict) or params.keys() != {"network", "uncertainty"}:
        raise ValueError(
            "parameters of a learned uncertainty are {'network': ..., 'uncertainty': ...}; create the state with those "
            "that `init` returns"
        )
    return params["network"]
