"""Residual MLP for data of any event shape, with adaptive layer norm.

h <- h + W2 silu(W1 (norm(h) (1 + scale) + shift)), scale and shift linear in the embedding of time and class
(arXiv 2212.09748 eq. of adaLN, without attention). The output layer starts at zero.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from jaxdiff.networks.checks import check_inputs, check_rate
from jaxdiff.networks.dropout import dropout
from jaxdiff.networks.embeddings import Embedding
from jaxdiff.networks.layers import Linear
from jaxdiff.networks.norms import layer_norm
from jaxdiff.types import Condition, Time


class _Block(nnx.Module):
    def __init__(self, width: int, *, rate: float | int, site: int, dtype: DTypeLike, rngs: nnx.Rngs):
        self.rate, self.site = rate, site
        self.modulation = Linear(width, 2 * width, dtype=dtype, rngs=rngs)
        self.first = Linear(width, width, dtype=dtype, rngs=rngs)
        self.last = Linear(width, width, dtype=dtype, rngs=rngs)

    def __call__(
        self, h: Float[Array, "B C"], embedding: Float[Array, "b C"], key: Key[Array, " B"] | None
    ) -> Float[Array, "B C"]:
        scale, shift = jnp.split(self.modulation(embedding), 2, -1)
        hidden = jax.nn.silu(self.first(layer_norm(h) * (1 + scale) + shift))
        return h + self.last(dropout(hidden, self.rate, key, self.site))


class MLP(nnx.Module):
    """Residual MLP over the flattened event.

    Args:
        shape: event shape, without the batch; () for scalars.
        width: hidden units.
        depth: residual blocks of two layers.
        num_classes: labels 0 ... num_classes - 1; label num_classes is the null label. 0: unconditional.
        dropout: probability in [0, 1), applied only where a call brings keys.
        two_times: accept a second time s.
        dtype: compute dtype; parameters, embeddings, statistics and the output are float32.
        remat: recompute each block in the backward pass instead of storing it.
        rngs: where the initial parameters come from.

    Raises:
        ValueError: a dropout probability outside [0, 1).
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        width: int = 256,
        depth: int = 4,
        num_classes: int = 0,
        dropout: float | int = 0.0,
        two_times: bool = False,
        dtype: DTypeLike = jnp.float32,
        remat: bool = False,
        rngs: nnx.Rngs,
    ):
        check_rate(dropout)
        self.shape, self.num_classes, self.two_times, self.remat = tuple(shape), num_classes, two_times, remat
        size = math.prod(shape)
        self.embedding = Embedding(features=width, width=width, num_classes=num_classes, two_times=two_times, rngs=rngs)
        self.stem = Linear(size, width, dtype=dtype, rngs=rngs)
        self.blocks = nnx.List(
            [_Block(width, rate=dropout, site=site, dtype=dtype, rngs=rngs) for site in range(depth)]
        )
        self.out = Linear(width, size, zero=True, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "B ..."],
        t: Time,
        cond: Condition = None,
        *,
        s: Time | None = None,
        key: Key[Array, "..."] | None = None,
    ) -> Float[Array, "B ..."]:
        """The network's output in prediction space.

        Args:
            x: network input (B, *shape).
            t: time in [0, 1], 0 = data, shape () or (B,).
            cond: integer labels (B,) in [0, num_classes]; None is the null label. A label outside gives NaN.
            s: second time, as `t`; None is s = t. Only with `two_times`.
            key: one typed key per example (B,) for dropout; None for no dropout.

        Returns:
            float32, the shape of `x`.

        Raises:
            ValueError: a shape or dtype other than these, or a `cond` or `s` that the network was not built for.
        """
        contract = {"shape": self.shape, "num_classes": self.num_classes, "two_times": self.two_times}
        check_inputs(x, t, cond, s, key, **contract)
        embedding = self.embedding(t, cond, s)
        h = self.stem(x.reshape(x.shape[0], math.prod(self.shape)))
        for block in self.blocks:
            h = (jax.checkpoint(block) if self.remat else block)(h, embedding, key)
        return self.out(layer_norm(h)).astype(jnp.float32).reshape(x.shape)
