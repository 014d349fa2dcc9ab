"""A transformer of blocks as pure functions with a cache of keys and values, to sample block after block.

A finished block is clean (t = 0) and never changes, nor do its keys and values (arXiv 2503.09573, alg. 2). So a call
on the noisy block costs that of one block's tokens and not of the sequence's, and gives the same logits.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from flax import nnx
from jaxtyping import Array, Float, Int, Shaped

from jaxdiff.networks.attention import Memory
from jaxdiff.networks.functional import structure
from jaxdiff.types import Params, Time

Cache: TypeAlias = tuple[Memory, ...]
"""Of each layer, keys and values of the whole sequence, each (B, L, heads, width / heads) in the compute dtype."""


class Cached(NamedTuple):
    """Three pure functions; hashable, so `processes.CachedDenoiser(functions=...)` takes them.

    Attributes:
        empty: `(params, batch) -> cache` before the first block.
        block: `(params, z, t, start, cache) -> ` float32 logits (B, b, K) of the noisy block z (B, b) at places
            start ... start + b - 1, given the clean places before `start` and itself.
        extend: `(params, x, start, cache) -> cache` with the clean x (B, n b) at start ... start + n b - 1: one
            finished block, or a prompt of n of them at once.

    `t` has shape (), (B,), or is a clock for each place: (B, b), (1, b), (B, 1) or (1, 1). `start` is a multiple of
    b, and may be traced; where it is not, or x would not fit, all outputs are NaN. Vectors have one axis more.
    """

    empty: Callable[[Params, int], Cache]
    block: Callable[[Params, Shaped[Array, "B b ..."], Time, Int[Array, ""] | int, Cache], Float[Array, "B b K"]]
    extend: Callable[[Params, Shaped[Array, "B T ..."], Int[Array, ""] | int, Cache], Cache]


def cached(make: Callable[[nnx.Rngs], nnx.Module]) -> Cached:
    """The functions with a cache of a `Transformer(..., block=b)`, for the parameters of `functional(make)`.

    Args:
        make: as `functional` takes it.

    Returns:
        `(empty, block, extend)`. Keep it: other functions are traced anew.

    Raises:
        ValueError: a module other than a transformer of blocks; at a call: a shape or a `start` other than above.

    Example:
        >>> make = lambda rngs: Transformer((8,), tokens=5, block=4, width=16, heads=2, rngs=rngs)
        >>> (init, apply), functions = functional(make), cached(make)
        >>> params = init(jax.random.key(0))
        >>> prompt, masks = jnp.zeros((2, 4), jnp.int32), jnp.full((2, 4), 5)
        >>> cache = functions.extend(params, prompt, 0, functions.empty(params, 2))
        >>> functions.block(params, masks, 1.0, 4, cache).shape
        (2, 4, 5)
    """
    merge = structure(make)
    module: Any = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
    length = getattr(module, "block", None)
    if not hasattr(module, "stretch") or length is None:
        raise ValueError(
            f"a cache needs a transformer of blocks, got {type(module).__name__} with block={length}; "
            "build Transformer(..., block=b)"
        )

    def empty(params: Params, batch: int) -> Cache:
        return merge(params).empty(batch)

    def block(
        params: Params, z: Shaped[Array, "B b ..."], t: Time, start: Int[Array, ""] | int, cache: Cache
    ) -> Float[Array, "B b K"]:
        if z.ndim < 2 or z.shape[1] != length:
            raise ValueError(f"z must be one block of {length} places, shape (B, {length}, ...), got {list(z.shape)}")
        return merge(params).stretch(z, t, start, cache)[0]

    def extend(params: Params, x: Shaped[Array, "B T ..."], start: Int[Array, ""] | int, cache: Cache) -> Cache:
        return merge(params).stretch(x, 0.0, start, cache)[1]

    return Cached(empty, block, extend)
