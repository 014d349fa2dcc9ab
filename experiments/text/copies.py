"""How much of a sample stands word for word in the training text: memorisation.

Stretches are compared by 64-bit hashes, each made of those of its two halves: of a million stretches against a million,
one is taken for another with probability 5e-8. The longest copy that is reported is then looked up in the text itself.
"""

from collections.abc import Sequence

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)
_BITS = 22  # of the sieve that most stretches of the training text fall through


def copied(passages: Sequence[str], seen: str, length: int = 20) -> float:
    """The share of the stretches of `length` characters in the passages that `seen` holds, in [0, 1].

    NaN where no passage is that long.
    """
    hashes = np.concatenate([np.zeros(0, np.uint64), *(_hashes(_codes(p), length) for p in passages)])
    return float(np.isin(hashes, _common(hashes, _codes(seen), length)).mean()) if len(hashes) else float("nan")


def longest_copy(passages: Sequence[str], seen: str) -> str:
    """The longest stretch of characters of a passage that `seen` holds; the first of several, "" for none."""
    parts, text = [_codes(p) for p in passages], _codes(seen)
    low, high, best = 0, min(max((len(p) for p in parts), default=0), len(text)), ""
    while low < high:  # what holds a long copy holds every shorter one
        length = (low + high + 1) // 2
        found = _first(passages, parts, text, seen, length)
        if found is None:
            high = length - 1
        else:
            low, best = length, found
    return best


def _first(passages: Sequence[str], parts: list[np.ndarray], text: np.ndarray, seen: str, length: int) -> str | None:
    hashes = [_hashes(part, length) for part in parts]
    common = _common(np.concatenate(hashes), text, length)
    for passage, own in zip(passages, hashes, strict=True):
        for start in np.flatnonzero(np.isin(own, common)):
            if (stretch := passage[start : start + length]) in seen:
                return stretch
    return None


def _codes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _hashes(codes: np.ndarray, length: int) -> np.ndarray:
    """uint64 (n - length + 1,): one for each stretch, from the hashes of a power of two of characters."""
    if len(codes) < length:
        return np.zeros(0, np.uint64)
    known, span = _mixed(codes.astype(np.uint64) + np.uint64(1)), 1
    whole, done = None, 0
    while True:
        if length & span:
            whole = known if whole is None else _joined(whole[: len(whole) - span], known[done:], span)
            done += span
        if done == length:
            assert whole is not None
            return whole[: len(codes) - length + 1]
        known, span = _joined(known[:-span], known[span:], span), 2 * span


def _joined(left: np.ndarray, right: np.ndarray, span: int) -> np.ndarray:
    short = min(len(left), len(right))
    return _mixed(left[:short] * _GOLDEN + right[:short] + np.uint64(span))


def _mixed(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * _MIX
    return z ^ (z >> np.uint64(27))


def _common(hashes: np.ndarray, text: np.ndarray, length: int) -> np.ndarray:
    """The hashes that a stretch of the text has too, and perhaps some that are no use."""
    sieve = np.zeros(1 << _BITS, bool)
    sieve[(hashes >> np.uint64(64 - _BITS)).astype(np.int64)] = True
    theirs = _hashes(text, length)
    return np.intersect1d(hashes, theirs[sieve[(theirs >> np.uint64(64 - _BITS)).astype(np.int64)]])
