"""Embedding of time, class, given vectors and tokens (arXiv 2006.11239 app. B; 2105.05233 for the class).

features(t) = [cos(1000 t w_i), sin(1000 t w_i)], w_i = period^(-i / n), i < n, then Linear, SiLU, Linear; all float32.
A second time s (flow maps, arXiv 2406.07507; MeanFlow, 2505.13447) has features and weights of its own.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Integer

from jaxdiff.networks.layers import Linear
from jaxdiff.types import Time


def time_features(t: Time, features: int, max_period: float | int = 10000) -> Float[Array, "*b features"]:
    """Sinusoids of 1000 t at `features` / 2 geometric frequencies, (*t.shape, features); one row for a scalar time.

    The frequencies fall from 1 towards 1 / `max_period`, which is one past the last of them.
    """
    count = features // 2
    frequencies = 1000 * jnp.exp(-math.log(max_period) / count * jnp.arange(count, dtype=jnp.float32))
    t = jnp.asarray(t, jnp.float32)
    angles = t.reshape(*(t.shape or (1,)), 1) * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)


class TimeEmbedding(nnx.Module):
    """A time of shape (), (B,) or (B, T) as vectors (1, width), (B, width) or (B, T, width)."""

    def __init__(self, *, features: int, width: int, max_period: float | int = 10000, rngs: nnx.Rngs):
        self.features, self.max_period = features + features % 2, max_period
        self.first = Linear(self.features, width, rngs=rngs)
        self.last = Linear(width, width, rngs=rngs)

    def __call__(self, t: Time) -> Float[Array, "*b width"]:
        return self.last(jax.nn.silu(self.first(time_features(t, self.features, self.max_period))))


class Embedding(nnx.Module):
    """What a network knows beside x: SiLU of the sum of the embeddings of t, of s, of the class and of
    a given vector.

    One row serves the whole batch as long as nothing in it differs between examples, so that a sampler, whose time
    is a scalar, pays for it once. Without `time` it is the embedding of the class alone.
    """

    def __init__(
        self,
        *,
        features: int,
        width: int,
        num_classes: int,
        two_times: bool = False,
        time: bool = True,
        vector: int = 0,
        max_period: float | int = 10000,
        rngs: nnx.Rngs,
    ):
        if not (time or num_classes):
            raise ValueError("an embedding needs something to embed, got neither a time nor classes; leave it out")
        of_time = lambda: TimeEmbedding(features=features, width=width, max_period=max_period, rngs=rngs)
        self.time = of_time() if time else None
        self.second = of_time() if two_times else None
        # Standard normal as in arXiv 2105.05233; the last row is the null label.
        rows = num_classes + 1
        draw = lambda: jax.random.normal(rngs.params(), (rows * width,)).reshape(rows, width)
        self.classes = nnx.Param(draw()) if num_classes else None
        self.vector = Linear(vector, width, rngs=rngs) if vector else None

    def __call__(
        self,
        t: Time,
        cond: Int[Array, " B"] | None = None,
        s: Time | None = None,
        vector: Float[Array, "B E"] | None = None,
    ) -> Float[Array, "*b width"]:
        """(B, width), or (1, width) where nothing differs between examples; (B, T, width) for t of shape (B, T).

        A label outside [0, num_classes] gives NaN: indexing would quietly take the nearest class.
        A network with two times that is given one takes s = t, the instantaneous direction.
        """
        embedding = jnp.zeros(()) if self.time is None else self.time(t)
        if self.second is not None:
            embedding = embedding + self.second(t if s is None else s)
        if self.classes is not None:
            table = self.classes[...]
            rows = table[-1:]
            if cond is not None:
                rows = table.at[cond].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
            embedding = embedding + (rows[:, None] if embedding.ndim == 3 else rows)
        if self.vector is not None and vector is not None:
            rows = self.vector(vector)
            embedding = embedding + (rows[:, None] if embedding.ndim == 3 else rows)
        return jax.nn.silu(embedding)


class TokenEmbedding(nnx.Module):
    """Tokens (B, T) in [0, states) as vectors (B, T, width) in `dtype`, from a float32 table; NaN for another token."""

    def __init__(self, states: int, width: int, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.dtype = jnp.dtype(dtype)
        self.table = nnx.Param(jax.random.normal(rngs.params(), (states * width,)).reshape(states, width))

    def __call__(self, x: Integer[Array, "B T"]) -> Float[Array, "B T width"]:
        rows = self.table[...].at[x].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
        return rows.astype(self.dtype)
