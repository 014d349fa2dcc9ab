"""The noise source: where every random number of a sampler comes from.

A source is typed keys (B,), one per sample, or an array (draws, B, ...) that the caller supplies. Keys are
folded from the index of a sample, never split by the shape of a batch, so the noise of sample i depends only
on the key and on i: it is bit-equal for every split of a batch over calls, devices and hosts.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, Shaped

from jaxdiff.types import Noise, Scalar, Time, expand


def sample_keys(key: Key[Array, ""], size: int, first: Int[Array, ""] | int = 0) -> Key[Array, " B"]:
    """One key for each of the samples `first, ..., first + size - 1`."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, first + jnp.arange(size))


def fold(keys: Shaped[Array, "..."], i: Int[Array, ""] | int) -> Shaped[Array, "..."]:
    """The `i`-th independent source: folds typed keys; a supplied array is indexed along its first axis."""
    if is_keys(keys):
        return jax.vmap(jax.random.fold_in, (0, None))(keys, i)
    return keys[i]


def is_keys(keys: Shaped[Array, "..."]) -> bool:
    """Whether a source is typed keys rather than supplied normals."""
    return jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)


def normal(
    keys: Shaped[Array, "..."], like: Float[Array, "..."] | jax.ShapeDtypeStruct, n: int = 0
) -> Float[Array, "..."]:
    """The `n`-th standard normal draw of this source, with the shape and dtype of `like`.

    Raises:
        ValueError: supplied noise has no `n`-th draw or another shape than `like`, or `like` is not real.
    """
    if not jnp.issubdtype(like.dtype, jnp.floating):
        raise ValueError(
            f"normal noise belongs to real numbers, got data of dtype {like.dtype}; tokens need a process and a solver "
            "that draw categories: Discrete and Ancestral(large=False)"
        )
    if is_keys(keys):
        # Drawn flat: XLA on CPU compiles a draw of several axes several times slower. The numbers are the same.
        draw = lambda key: jax.random.normal(jax.random.fold_in(key, n), (math.prod(like.shape[1:]),), like.dtype)
        return jax.vmap(draw)(keys).reshape(like.shape)
    if keys.shape[1:] != like.shape or n >= keys.shape[0]:
        raise ValueError(
            f"supplied noise must have shape (draws > {n}, *{like.shape}) for each step, got {keys.shape}; "
            "pass noise of shape (steps, draws, B, ...)"
        )
    return keys[n].astype(like.dtype)


def uniform(keys: Noise, shape: tuple[int, ...], n: int = 0) -> Float[Array, "B ..."]:
    """The `n`-th uniform draw of this source in [0, 1), shape (B, ...); of a supplied normal, its quantile."""
    if is_keys(keys):
        draw = lambda key: jax.random.uniform(jax.random.fold_in(key, n), (math.prod(shape[1:]),))
        return jax.vmap(draw)(keys).reshape(shape)
    u = jax.scipy.stats.norm.cdf(normal(keys, jax.ShapeDtypeStruct(shape, keys.dtype), n))
    return jnp.minimum(u, 1 - jnp.finfo(keys.dtype).eps)  # rounded to 1 it would leave [0, 1)


def categorical(keys: Noise, logits: Float[Array, "B ... V"], n: int = 0) -> Int[Array, "B ..."]:
    """The `n`-th draw from softmax(logits), int32, shape (B, ...).

    By Gumbel noise of high resolution: that of plain float32 never reaches its own tail, which lowers the temperature.
    With supplied normals, by the inverse of the cumulative distribution.
    """
    if is_keys(keys):
        draw = lambda key, logits: jax.random.categorical(jax.random.fold_in(key, n), logits, mode="high")
        return jax.vmap(draw)(keys, logits).astype(jnp.int32)
    return quantile(jax.nn.softmax(logits), uniform(keys, logits.shape[:-1], n))


def quantile(probabilities: Float[Array, "*B V"], u: Float[Array, "..."]) -> Int[Array, "..."]:
    """The first state whose cumulative probability exceeds u in [0, 1), int32.

    The law is one for all of u, or one for each: shape (V,), or u's shape and V.
    """
    cumulative = jnp.cumsum(probabilities, -1)
    u = u * cumulative[..., -1]  # rounding does not leave a gap at the end
    if cumulative.ndim == 1:
        return jnp.searchsorted(cumulative, u, side="right").astype(jnp.int32)
    return (cumulative <= u[..., None]).sum(-1).astype(jnp.int32)


def add(keys: Noise, x: Float[Array, "B ..."], std: Time | Scalar, n: int = 0) -> Float[Array, "B ..."]:
    """`x + std * normal`; a scalar `std` of zero draws nothing at run time."""
    std = jnp.asarray(std, x.dtype)
    if std.ndim:
        return x + expand(std, x) * normal(keys, x, n)
    return jax.lax.cond(std > 0, lambda x: x + std * normal(keys, x, n), lambda x: x, x)
