"""Transformer of sequences, of tokens or of vectors: the blocks of the DiT with rotary positions in one dimension.

Tokens x0 in [0, K) become noisy states in [0, V), and the network gives logits of x0 (arXiv 2107.03006, 2406.07524).
With masks the time adds nothing that the tokens do not say (arXiv 2406.07524, sec. 3.5; 2406.04329): `time=False`
leaves it out. With `block` the sequence is denoised block after block, log p(x) = sum_j log p(x^j | x^<j), and one pass
over [noisy; clean], 2 L tokens, gives the logits of all blocks, each given the clean ones before it (arXiv 2503.09573).
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key, Shaped

from jaxdiff.networks.attention import Memory
from jaxdiff.networks.block import Block, Rows, Scales, modulate, steer
from jaxdiff.networks.checks import check_inputs, check_rate
from jaxdiff.networks.embeddings import Embedding, TokenEmbedding
from jaxdiff.networks.layers import Linear
from jaxdiff.networks.masks import block_causal, two_streams
from jaxdiff.networks.positions import rotary_1d
from jaxdiff.types import Condition, Time, is_traced


class Transformer(nnx.Module):
    """Transformer for sequences, tokens (B, L) or vectors (B, L, C); each place sees every other by default.

    Args:
        shape: (L,) for tokens, (L, C) for vectors.
        tokens: K, values of the data, for tokens alone: the network gives K logits a place.
        states: V >= K, values of noisy tokens; K + 1 by default, of which the last is a mask.
        out_channels: channels of the output of vectors, C by default.
        width: channels of a place, `heads` times an even number.
        depth: blocks.
        heads: attention heads.
        mlp_ratio: hidden units of a block's MLP, in units of `width`.
        num_classes: labels 0 ... num_classes - 1; label num_classes is the null label. 0: unconditional.
        features: numbers that are known of each place, such as those of the sentence that a label belongs to. 0: none.
        time: tell the network the time. Without time and classes the blocks are plain, with learned scales of norms.
        block: places in a block, a divisor of L: a place sees its own block and earlier ones. 1 is autoregressive.
            None: all see all. `cached` makes the functions with a cache of keys and values.
        dropout: probability in [0, 1) on both branches of a block, applied only where a call brings keys.
        qk_norm: RMS-normalise queries and keys.
        dtype: compute dtype; parameters, embeddings, statistics, softmax and the output are float32.
        remat: recompute each block in the backward pass instead of storing it.
        rngs: where the initial parameters come from.

    Raises:
        ValueError: a shape without its kind of data, fewer states than tokens, sizes that `heads` or `block` do not
            divide, more than one of classes, features and `block`, a dropout probability outside [0, 1).
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        tokens: int | None = None,
        states: int | None = None,
        out_channels: int | None = None,
        width: int = 384,
        depth: int = 6,
        heads: int = 6,
        mlp_ratio: float | int = 4,
        num_classes: int = 0,
        features: int = 0,
        time: bool = True,
        block: int | None = None,
        dropout: float | int = 0.0,
        qk_norm: bool = True,
        dtype: DTypeLike = jnp.float32,
        remat: bool = False,
        rngs: nnx.Rngs,
    ):
        check_rate(dropout)
        _check_kind(shape, tokens, states, out_channels)
        if width % (2 * heads):
            raise ValueError(
                f"rotary positions turn pairs of channels, so width must be heads times an even number, got width "
                f"{width} and {heads} heads; choose width = 2 * heads * n"
            )
        if block is not None and (block < 1 or shape[0] % block):
            raise ValueError(
                f"block must divide the {shape[0]} places of a sequence, got {block}; pad or choose a divisor"
            )
        if (block is not None) + (num_classes > 0) + (features > 0) > 1:
            raise ValueError(
                f"cond is one of the clean sequence (with block), labels and features, got block={block}, "
                f"num_classes={num_classes} and features={features}; choose one"
            )
        self.shape, self.block, self.num_classes, self.features = tuple(shape), block, num_classes, features
        self.states = 0 if tokens is None else states or tokens + 1
        self.heads, self.head_dim, self.remat, self.dtype = heads, width // heads, remat, jnp.dtype(dtype)
        steered = time or num_classes > 0
        options = {"features": 256, "width": width, "num_classes": num_classes, "time": time}
        self.embedding = Embedding(**options, rngs=rngs) if steered else None
        if tokens is None:
            self.stem = Linear(shape[1], width, dtype=dtype, rngs=rngs)
        else:
            self.stem = TokenEmbedding(self.states, width, dtype=dtype, rngs=rngs)
        self.about = Linear(features, width, dtype=dtype, rngs=rngs) if features else None
        options = {"hidden": int(mlp_ratio * width), "qk_norm": qk_norm, "steered": steered, "rate": dropout}
        self.blocks = nnx.List(
            [Block(width, heads, **options, site=2 * i, dtype=dtype, rngs=rngs) for i in range(depth)]
        )
        linear = lambda: Linear(width, 2 * width, zero=True, dtype=dtype, rngs=rngs)
        self.modulation = linear() if steered else Scales(width, count=1)
        outputs = tokens or out_channels or shape[1]
        self.out = Linear(width, outputs, zero=True, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x: Shaped[Array, "B L ..."],
        t: Time,
        cond: Condition = None,
        *,
        s: Time | None = None,
        key: Key[Array, "..."] | None = None,
    ) -> Float[Array, "B L K"]:
        """Logits of x0 for tokens, the output in prediction space for vectors.

        Args:
            x: integer tokens (B, L) in [0, states), or vectors (B, L, C). A token outside gives NaN.
            t: time in [0, 1], 0 = data. Shape () or (B,), or a clock for each place: (B, L), (1, L), (B, 1) or (1, 1);
                0 where a place is known. Ignored with `time=False`.
            cond: with classes, labels (B,) in [0, num_classes], None the null label, a label outside gives NaN.
                With features, floating (B, L, features), None zeros.
                With `block`, the clean sequences, as x: then each block of x is noisy and is given the clean blocks
                before it; None: x itself is clean, with t = 0, before the block whose output is wanted.
            s: refused, the network has one time.
            key: one typed key per example (B,) for dropout; None for no dropout.

        Returns:
            float32 (B, L, tokens) or (B, L, out_channels).

        Raises:
            ValueError: a shape or dtype other than these, or a `cond` or `s` that the network was not built for.
        """
        self._check(x, t, cond, s, key, self.shape)
        length, mask, places = self.shape[0], None, jnp.arange(self.shape[0])
        labels = cond if self.num_classes else None
        clean = None if self.block is None else cond
        if self.block is not None and clean is not None:
            x, t = jnp.concatenate([x, jnp.asarray(clean)], 1), _with_zeros(t)
            mask, places = two_streams(length, self.block), jnp.tile(places, 2)
        elif self.block is not None:
            mask = block_causal(places, places, self.block)
        embedding = None if self.embedding is None else self.embedding(t, labels)
        h, angles = self.stem(x), rotary_1d(places, self.head_dim)
        if self.about is not None:
            h = h + self.about(jnp.zeros((*x.shape[:2], self.features)) if cond is None else jnp.asarray(cond))
        for block in self.blocks:
            h = (jax.checkpoint(block) if self.remat else block)(h, embedding, key, angles, mask)
        if clean is not None:
            h = h[:, :length]
            embedding = None if embedding is None else embedding[:, : embedding.shape[1] // 2]
        return self._output(h, embedding)

    def empty(self, batch: int) -> tuple[Memory, ...]:
        """Keys and values before the first block, one pair a layer: zeros (batch, L, heads, width / heads)."""
        zeros = jnp.zeros((batch, self.shape[0], self.heads, self.head_dim), self.dtype)
        return tuple((zeros, zeros) for _ in self.blocks)

    def stretch(
        self, x: Shaped[Array, "B T ..."], t: Time, start: Int[Array, ""] | int, cache: tuple[Memory, ...]
    ) -> tuple[Float[Array, "B T K"], tuple[Memory, ...]]:
        """Outputs at the places start ... start + T - 1, and the cache with their keys and values.

        Args:
            x: whole blocks, tokens (B, T) or vectors (B, T, C).
            t: time, shape (), (B,), or a clock for each of the T places.
            start: first place, a multiple of `block`, may be traced. Where x has no place there, all is NaN.
            cache: keys and values of the places before `start`; what it holds of later ones is not seen.

        Raises:
            ValueError: an x of other than whole blocks, a `start` that is known and no place for it.
        """
        size, block = x.shape[1] if x.ndim > 1 else 0, self.block
        if block is None:
            raise ValueError("a cache of keys and values needs a network of blocks; build it with block=...")
        if not size or size % block or size > self.shape[0]:
            raise ValueError(f"x must be whole blocks of {block} of {self.shape[0]} places, got shape {list(x.shape)}")
        self._check(x, t, None, None, None, (size, *self.shape[1:]))
        fits = (start >= 0) & (start % block == 0) & (start + size <= self.shape[0])
        if not is_traced(fits) and not fits:
            raise ValueError(
                f"start must be a multiple of {block} in [0, {self.shape[0] - size}] for {size} places, got {start}"
            )
        places = start + jnp.arange(size)
        mask = block_causal(places, jnp.arange(self.shape[0]), block)
        embedding = None if self.embedding is None else self.embedding(t)
        # The memory would be written at the nearest place that there is, without a word.
        h, angles = jnp.where(fits, self.stem(x), jnp.nan), rotary_1d(places, self.head_dim)
        grown = []
        for layer, memory in zip(self.blocks, cache, strict=True):
            h, memory = layer.cached(h, embedding, angles, mask, start, memory)
            grown.append(memory)
        return self._output(h, embedding), tuple(grown)

    def _output(self, h: Float[Array, "B T C"], embedding: Rows | None) -> Float[Array, "B T K"]:
        scale, shift, *_ = steer(self.modulation, embedding, h)
        return self.out(modulate(h, scale, shift)).astype(jnp.float32)

    def _check(self, x: Shaped[Array, "..."], t: Time, cond: Condition, s: Time | None, key, shape: tuple[int, ...]):
        check_inputs(
            x,
            t,
            cond,
            s,
            key,
            shape=shape,
            num_classes=self.num_classes,
            two_times=False,
            states=self.states,
            features=self.features,
            clocks=1,
            clean=self.block is not None,
        )


def _with_zeros(t: Time) -> Float[Array, "b g"]:
    """Clocks of the noisy sequence and, at 0, of the clean one: a row for each half, or for each place."""
    t = jnp.asarray(t)
    t = t.reshape(t.shape + (1,) * (2 - t.ndim))
    return jnp.concatenate([t, jnp.zeros_like(t)], 1)


def _check_kind(shape: tuple[int, ...], tokens: int | None, states: int | None, out_channels: int | None) -> None:
    if len(shape) not in (1, 2) or (len(shape) == 1) != (tokens is not None):
        raise ValueError(
            f"shape must be (L,) with tokens=K, or (L, C) without, got shape {tuple(shape)} and tokens={tokens}; "
            "name the number of values that data have if they are tokens"
        )
    if tokens is None and states is not None:
        raise ValueError(f"states belong to tokens, and vectors have none, got states={states}; leave it out")
    if tokens is not None and (tokens < 1 or (states is not None and states < tokens)):
        raise ValueError(f"states must be at least tokens, and those 1, got tokens={tokens} and states={states}")
    if tokens is not None and out_channels is not None:
        raise ValueError(f"the output of tokens is {tokens} logits, got out_channels={out_channels}; leave it out")
