"""Ancestral sampling: draw x_s from the process's own bridge q(x_s | x_t, x0) (arXiv 2006.11239, alg. 2).

For tokens that is the mean of bridges over p(x0 | x_t), in `processes.reverse`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxdiff import noise
from jaxdiff.solvers.steps import real_steps
from jaxdiff.types import Data, Denoiser, Noise, Process, pytree, static

_MORE = 1  # the draw beside the bridge's own


@pytree
class Ancestral:
    """DDPM's sampler, and that of masked and uniform diffusion; stochastic, one call a step, any process.

    Args:
        large: the variance of q(x_t | x_s) instead of that of the bridge q(x_s | x_t, x0), on a Gaussian process: the
            two bounds of arXiv 2006.11239, sec. 3.2. They agree as steps shrink.

    Raises:
        ValueError: in `init`, `large` for data that are not real numbers.
    """

    large: bool = static(default=False)
    order = 1
    strong_order = 1
    one_call = True

    def nfe(self, grid: Float[Array, " N"]) -> Int[Array, ""]:
        return real_steps(grid)

    def init(self, process: Process, x: Data, grid: Float[Array, " N"]) -> tuple[()]:
        kinds = {str(leaf.dtype) for leaf in jax.tree.leaves(x) if not jnp.issubdtype(leaf.dtype, jnp.floating)}
        if self.large and kinds:
            raise ValueError(
                f"large=True chooses the variance of a Gaussian step and needs real numbers, got data of dtype "
                f"{', '.join(sorted(kinds))}; tokens have one reverse law, that of Ancestral()"
            )
        return ()

    def step(
        self,
        keys: Noise,
        process: Process,
        denoise: Denoiser,
        x: Data,
        t: Float[Array, ""],
        s: Float[Array, ""],
        state: Any,
    ) -> tuple[Data, Any]:
        x_s = process.bridge(keys, denoise(x, t), x, t, s)
        if not self.large:
            return x_s, state
        # sigma_ts^2 = bridge variance / (sigma_s / sigma_t)^2: what is missing is drawn on top.
        (alpha_t, sigma_t), (alpha_s, sigma_s) = process.schedule(t), process.schedule(s)
        whole = sigma_t**2 - (alpha_t / alpha_s * sigma_s) ** 2
        missing = jnp.where(sigma_s > 0, jnp.maximum(whole * (1 - (sigma_s / sigma_t) ** 2), 0.0), 0.0)
        return noise.add(keys, x_s, jnp.sqrt(missing), _MORE), state
