"""Exact likelihoods of pictures of few levels by counting, to stand beside a bound: what no network is needed for."""

import numpy as np

_CONTEXTS = 1 << 16
# Neighbours that come earlier in reading order, the nearest first; ten of them are the template of JBIG (ITU-T T.82).
_NEAR = ((0, -1), (-1, 0), (-1, -1), (-1, 1), (0, -2), (-2, 0), (-1, -2), (-1, 2), (-2, -1), (-2, 1), (0, -3), (-2, 2))


def independent(train: np.ndarray, test: np.ndarray, levels: int) -> float:
    """Nats a token of `test` (M, H, W, C) if each has the frequencies of its place in `train` (N, H, W, C)."""
    rates = np.stack([(train == k).sum(0) + 0.5 for k in range(levels)], -1)
    rates = rates / rates.sum(-1, keepdims=True)
    return float(-np.mean([np.log(np.take_along_axis(rates, x[..., None], -1)) for x in test]))


def neighbours(train: np.ndarray, test: np.ndarray, levels: int) -> float:
    """Nats a token if each has the frequencies of what follows its earlier neighbours, wherever that is.

    As many neighbours as make at most 65,536 contexts, 12 at most; outside the picture and in other channels all is 0.
    """
    used = _NEAR[: max(1, min(len(_NEAR), int(np.log(_CONTEXTS) / np.log(levels) + 1e-9)))]
    counts = np.full((levels ** len(used), levels), 0.5)
    for part in np.array_split(train, max(1, len(train) // 2048)):
        np.add.at(counts, (_context(part, used, levels), part), 1)
    rates = counts / counts.sum(1, keepdims=True)
    return float(-np.mean(np.log(rates[_context(test, used, levels), test])))


def _context(x: np.ndarray, used: tuple[tuple[int, int], ...], levels: int) -> np.ndarray:
    """The number of each token's context, of the shape of x."""
    height, width = x.shape[1:3]
    padded = np.pad(x, ((0, 0), (3, 0), (3, 3), (0, 0)))
    parts = [padded[:, 3 + up : 3 + up + height, 3 + left : 3 + left + width] for up, left in used]
    total = np.zeros(x.shape, np.int64)
    for digit, part in enumerate(parts):
        total += part.astype(np.int64) * levels**digit
    return total
