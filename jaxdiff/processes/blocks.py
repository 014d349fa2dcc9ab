"""The denoiser of one block of tokens from a network that keeps keys and values of the blocks before it.

A network with a cache is three pure functions, as members of one object: `empty(params, batch) -> cache`,
`block(params, z, t, start, cache) -> logits` of the block whose first token is `start`, and
`extend(params, x, start, cache) -> cache` with a finished block in it (arXiv 2503.09573, alg. 2).
"""

from typing import Any

import jax
from jaxtyping import Array, Float, Int, Integer

from jaxdiff.processes.observed import Observed, put_in
from jaxdiff.types import Condition, Params, Time, per_sample, pytree, static


@pytree
class CachedDenoiser:
    """log p(x0 | earlier blocks, noisy block): what `solvers.BlockDiffusion` asks in place of the whole sequence.

    `BlockDiffusion(inner=..., block=..., start=denoise.empty)` samples with it.

    Args:
        process: gives `log_probabilities(logits, z, t)`, such as `Discrete`.
        params: of the network.
        functions: the three functions above, a hashable object.
        observed: `(mask, value)` of known tokens of the whole sequence, as `Discrete.denoiser` takes them. They are in
            the block that the network sees, at t = 0, and in the cache; those of later blocks are not seen.
    """

    process: Any
    params: Params
    functions: Any = static()
    observed: Observed | None = per_sample(default=None)

    @property
    def empty(self) -> "Empty":
        """`batch -> cache` before the first block; a pytree, so that a compiled sampler takes it with the solver."""
        return Empty(params=self.params, functions=self.functions)

    def block(
        self, z: Integer[Array, "B b"], t: Time, start: Int[Array, ""] | int, cache: Any
    ) -> Float[Array, "B b K"]:
        """log p(x0) of the noisy block z at its own time t, shape () or a prefix of z's."""
        z, t = put_in(self._known(z, start), z, t)
        return self.process.log_probabilities(self.functions.block(self.params, z, t, start, cache), z, t)

    def extend(self, x: Integer[Array, "B b"], start: Int[Array, ""] | int, cache: Any) -> Any:
        """The cache with the finished block x."""
        x, _ = put_in(self._known(x, start), x, 0.0)
        return self.functions.extend(self.params, x, start, cache)

    def __call__(self, x: Integer[Array, "B L"], t: Time, cond: Condition = None) -> Float[Array, "B L K"]:
        raise ValueError(
            "a denoiser with a cache sees one block at a time: sample with solvers.BlockDiffusion, or make a denoiser "
            "of whole sequences with process.denoiser(network)"
        )

    def _known(self, z: Integer[Array, "B b"], start: Int[Array, ""] | int) -> Observed | None:
        """The block's part of what is observed."""
        if self.observed is None:
            return None
        mask, value = self.observed
        cut = lambda part: jax.lax.dynamic_slice_in_dim(part, start, z.shape[1], 1)
        return cut(mask) if mask.ndim > 1 and mask.shape[1] > 1 else mask, cut(value)


@pytree
class Empty:
    """The cache before the first block."""

    params: Params
    functions: Any = static()

    def __call__(self, batch: int) -> Any:
        return self.functions.empty(self.params, batch)
