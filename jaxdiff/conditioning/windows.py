"""Windows over a canvas: a denoiser of large pictures from one of small ones (arXiv 2302.08113, eq. 5).

    D(p) = sum_j W_j(p) D(x[window_j], c_j)(p) / sum_j W_j(p)

at each place p, over windows j and what they are told, c_j. W_j falls linearly from a window's middle to its edges.
Where the canvas has regions m_i of their own conditions c_i, a window is told of each region that has a good share of
it, and what it then says counts where that region is:

    W_ji(p) = W_j(p) m_i(p),   and all of W_j(p) where one region is left, so that neighbours fade into each other.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdiff.types import Condition, Denoiser, Time, as_pytree, pytree, static

Corner = tuple[int, int]


@pytree
class Windows:
    """The denoiser that `windows` makes: n estimates, each of one window and, where given, under its own condition."""

    denoise: Denoiser
    conds: Condition = None
    canvas: tuple[int, int] = static()
    corners: tuple[Corner, ...] = static()
    weights: Float[Array, "n h w"]

    def __call__(self, x: Float[Array, "B H W C"], t: Time, cond: Condition = None) -> Float[Array, "B H W C"]:
        if x.shape[1:3] != self.canvas:
            raise ValueError(f"these windows lie on a canvas {self.canvas}, got pictures of {x.shape[1:3]}")
        size, (count, h, w) = x.shape[0], self.weights.shape
        corners = np.array(self.corners)
        rows = (corners[:, :1] + np.arange(h)) % self.canvas[0]
        columns = (corners[:, 1:] + np.arange(w)) % self.canvas[1]
        place = (slice(None), rows[:, :, None], columns[:, None])
        cut = x[place]  # (B, n, h, w, C), then one batch with the windows of a sample side by side
        repeat = lambda a: jnp.repeat(jnp.asarray(a), count, 0) if jnp.ndim(a) and jnp.shape(a)[0] == size else a
        each_its_own = lambda c: jnp.broadcast_to(c, (size, *c.shape)).reshape(size * count, *c.shape[1:])
        told = jax.tree.map(repeat, cond) if self.conds is None else jax.tree.map(each_its_own, self.conds)
        each = self.denoise(cut.reshape(size * count, *cut.shape[2:]), repeat(t), told).reshape(cut.shape)
        weights = self.weights[None, ..., None].astype(x.dtype)
        total = jnp.zeros_like(x).at[place].add(weights * each)
        return total / jnp.zeros((1, *x.shape[1:3], 1), x.dtype).at[place].add(weights)


def windows(
    denoise: Denoiser,
    canvas: tuple[int, int],
    window: tuple[int, int],
    stride: tuple[int, int],
    *,
    circular: tuple[bool, bool] = (False, False),
    regions: Float[Array, "m H W"] | None = None,
    conds: Condition = None,
    own: float = 0.75,
) -> Windows:
    """A denoiser of large pictures from one of small ones: overlapping windows, averaged (arXiv 2302.08113).

    One call on all windows; one that is told of k regions is in it k times.

    Args:
        denoise: of pictures (B, h, w, C); its condition is that of the whole picture, repeated.
        canvas: (H, W) in pixels.
        window: (h, w), what `denoise` takes.
        stride: pixels from one window to the next, down and across, at most the window.
        circular: whether an axis is joined at its ends, such as the width of a panorama of 360 degrees. Its window i
            has the pixels from i to i + 1 strides in the middle.
        regions: m arrays of weights, not negative, of positive sum at each place; known when this is called.
        conds: the condition of each region, a pytree with leading axis m: what `denoise` is then called with.
        own: share of a window that makes it one region's alone, in (0.5, 1]; regions with no more than 1 - own of a
            window are not told of there, if other windows show them. At 1 each place has its own region's estimate
            and no other, as in the paper.

    Raises:
        ValueError: windows that do not end at the canvas's edge, or leave gaps; regions without conditions or of
            another size; a place without a region.
    """
    downwards, across = (
        _starts(name, n, w, s, around)
        for name, n, w, s, around in zip(("height", "width"), canvas, window, stride, circular, strict=True)
    )
    corners = [(row, column) for row in downwards for column in across]
    ramp = np.outer(*(np.minimum(np.arange(n) + 1, n - np.arange(n)) / ((n + 1) // 2) for n in window))
    if (regions is None) != (conds is None):
        raise ValueError("regions and their conditions come together: give both, or neither")
    weights: Any = np.broadcast_to(ramp, (len(corners), *window))
    if regions is not None:
        picked, weights = _told(_checked(regions, conds, canvas, own), corners, ramp, own)
        corners = [corners[j] for j, _ in picked]
        conds = jax.tree.map(lambda c: jnp.asarray(c)[np.array([i for _, i in picked])], conds)
    return Windows(
        denoise=as_pytree(denoise),
        conds=conds,
        canvas=(canvas[0], canvas[1]),
        corners=tuple(corners),
        weights=jnp.asarray(weights, jnp.float32),
    )


def _starts(name: str, size: int, window: int, stride: int, around: bool) -> list[int]:
    """Where the windows begin along one axis."""
    room = size if around and size > window else size - window
    if not 0 < stride <= window <= size or room % stride:
        raise ValueError(
            f"windows of {window} every {stride} must cover a {name} of {size}{' that is joined' * around} without gap "
            f"or rest: the stride must divide {room}, and be at most the window, and that at most the canvas"
        )
    if around and size > window:  # each in the middle of its stride: a circle has no first window
        return [(i * stride - (window - stride) // 2) % size for i in range(room // stride)]
    return [i * stride for i in range(room // stride + 1)]


def _checked(regions: Any, conds: Condition, canvas: tuple[int, int], own: float) -> np.ndarray:
    """The regions (m, H, W), of sum 1 at each place."""
    masks = np.asarray(regions, np.float64)
    sizes = {jnp.shape(c)[:1] for c in jax.tree.leaves(conds)}
    if masks.shape[1:] != tuple(canvas) or sizes != {masks.shape[:1]}:
        raise ValueError(
            f"regions must have shape (m, {canvas[0]}, {canvas[1]}) with m conditions, got {masks.shape} and "
            f"conditions of leading axes {sorted(sizes)}"
        )
    if (masks < 0).any() or not (masks.sum(0) > 0).all():
        raise ValueError("regions must not be negative, and some region must have each place; raise one of them there")
    if not 0.5 < own <= 1:
        raise ValueError(f"own is the share that makes a window one region's alone, in (0.5, 1], got {own}")
    return masks / masks.sum(0)


def _told(
    masks: np.ndarray, corners: list[Corner], ramp: np.ndarray, own: float
) -> tuple[list[tuple[int, int]], np.ndarray]:
    """`(window, region)` of each estimate, and its weights (n, h, w)."""
    (height, width), (h, w) = masks.shape[1:], ramp.shape
    places = [((r + np.arange(h))[:, None] % height, (c + np.arange(w))[None] % width) for r, c in corners]
    cut = np.stack([masks[:, *place] for place in places])  # (windows, m, h, w)
    share = (ramp * cut).sum((2, 3)) / ramp.sum()
    kept = share > 1 - own
    for i, mask in enumerate(masks):
        shown = np.zeros((height, width), bool)
        for place, here in zip(places, kept[:, i], strict=True):
            shown[place] |= here
        hidden = (mask > 0) & ~shown
        kept[:, i] |= [bool(hidden[place].any()) for place in places]
    picked, weights = [], []
    for j, here in enumerate(kept):
        rest = 1 - cut[j, here].sum(0)  # places of regions that this window is not told of
        for i in np.flatnonzero(here):
            most = i == np.argmax(np.where(here, share[j], -1))
            picked.append((j, int(i)))
            weights.append(ramp * (cut[j, i] + most * rest))
    return picked, np.stack(weights)
