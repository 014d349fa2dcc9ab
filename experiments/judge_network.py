"""The network of a judge, for images of 8 to 64 pixels a side.

    stem -> conv -> pool -> conv -> pool -> features (64) -> logits

The stem leaves 16 cells a side at most, so that the rest costs the same for every size: a convolution for sides up to
16, convolution and pool up to 32, convolution of stride 2 and pool up to 64.
"""

import jax
import jax.numpy as jnp
from flax import nnx

WIDTHS, FEATURES, DROPOUT = (24, 48, 64), 64, 0.1

Shape = tuple[int, int, int]


class Classifier(nnx.Module):
    """Images (N, H, W, C), standardised float32, to features (N, 64), and features to logits (N, classes)."""

    def __init__(self, shape: Shape, classes: int, rngs: nnx.Rngs):
        shrink = next(s for s in (1, 2, 4) if max(shape[:2]) <= 16 * s)
        self.pooled = shrink > 1
        kernel, stride = ((3, 3), 1) if shrink < 4 else ((5, 5), 2)
        self.stem = nnx.Conv(shape[2], WIDTHS[0], kernel, strides=stride, rngs=rngs)
        self.middle = nnx.Conv(WIDTHS[0], WIDTHS[1], (3, 3), rngs=rngs)
        self.last = nnx.Conv(WIDTHS[1], WIDTHS[2], (3, 3), rngs=rngs)
        height, width = (-(-side // (4 * shrink)) for side in shape[:2])
        self.embed = nnx.Linear(height * width * WIDTHS[2], FEATURES, rngs=rngs)
        self.head = nnx.Linear(FEATURES, classes, rngs=rngs)
        self.dropout = nnx.Dropout(DROPOUT)

    def features(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.stem(x))
        x = _pool(x) if self.pooled else x
        x = _pool(nnx.relu(self.middle(x)))
        x = _pool(nnx.relu(self.last(x)))
        return nnx.relu(self.embed(x.reshape(len(x), -1)))

    def logits(self, features: jax.Array, key: jax.Array | None = None) -> jax.Array:
        if key is not None:
            features = self.dropout(features, deterministic=False, rngs=nnx.Rngs(dropout=key))
        return self.head(features)


def _pool(x: jax.Array) -> jax.Array:
    # 2x2 maximum by reshaping: on CPU the gradient of `reduce_window` takes as long as all convolutions together.
    n, height, width, channels = x.shape
    x = jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))  # x >= 0, so zeros never win
    return x.reshape(n, (height + 1) // 2, 2, (width + 1) // 2, 2, channels).max((2, 4))
