"""RePaint: known elements are put in at each noise level, and steps repeated so that the rest agrees with them."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxdiff import noise
from jaxdiff.types import Denoiser, Noise, Process, Scalar, Solver, expand, per_sample, pytree

_STREAM = 1 << 21  # the draws of the repetitions are not those of the inner solver's own steps


@pytree
class RePaint:
    """inner's step to s, the known elements drawn from q(x_s | x0), back to t by q(x_t | x_s); `times` over.

    arXiv 2201.09865, alg. 1, with jumps of one step. `times` = 1 is the replacement method of arXiv 2011.13456, app.
    I.2, whose unknown part never learns what the known part will be. With many repetitions a step draws from what the
    denoiser says of both parts together. Known elements come back bit for bit.

    Args:
        inner: a solver without history.
        mask: bool, True where an element is known, a prefix of the data's shape.
        value: known elements, the data's shape; what stands elsewhere does not matter.
        times: repetitions of each step, at least 1; may be traced. The last step, to the data, is made once.

    Raises:
        ValueError: an inner solver with a history, when sampling starts.
    """

    inner: Solver
    mask: Bool[Array, "B ..."] = per_sample()
    value: Float[Array, "B ..."] = per_sample()
    times: Scalar = 10

    @property
    def order(self) -> int:
        return self.inner.order

    def nfe(self, grid: Float[Array, " N"]) -> Int[Array, ""]:
        noisy = jnp.where(grid[1:] > 0, grid[1:], 0.0)
        once = self.inner.nfe(grid)
        repeated = ((grid[1:] != grid[:-1]) & (noisy > 0)).sum()
        # A step that is repeated costs what it costs once: the inner solver counts a grid of two times.
        return once + (self.times - 1) * repeated * self.inner.nfe(jnp.array([1.0, 0.5]))

    def init(self, process: Process, x: Float[Array, "B ..."], grid: Float[Array, " N"]) -> tuple[()]:
        if jax.tree.leaves(self.inner.init(process, x, grid)):
            raise ValueError(
                f"RePaint repeats steps, so it needs an inner solver without history, got {type(self.inner).__name__}; "
                "solvers.Ancestral() is the paper's"
            )
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
        if not noise.is_keys(keys):
            raise ValueError("RePaint draws a changing number of normals: pass keys, not an array of noise")
        mask = expand(self.mask, x)

        def once(i, x):
            drawn = noise.fold(keys, _STREAM + i)
            moved, _ = self.inner.step(noise.fold(drawn, 0), process, denoise, x, t, s, ())
            known, _ = process.corrupt(noise.fold(drawn, 1), self.value, s)
            return jnp.where(mask, known, moved)

        def again(i, x):
            return process.forward(noise.fold(noise.fold(keys, _STREAM + i), 2), once(i, x), s, t)

        count = jnp.where(process.schedule(s)[1] > 0, self.times - 1, 0).astype(int)
        x = jax.lax.fori_loop(0, count, again, x)
        return once(count, x), state


def replacement(inner: Solver, mask: Bool[Array, "B ..."], value: Float[Array, "B ..."]) -> RePaint:
    """Known elements put in at each noise level, without repetition (arXiv 2011.13456, app. I.2): `RePaint` once."""
    return RePaint(inner=inner, mask=mask, value=value, times=1)
