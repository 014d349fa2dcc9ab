"""Permutations and coin flips that are pure functions of integers.

They use NumPy's bit generators, whose raw streams NumPy promises never to change (NEP 19), not `Generator.permutation`,
which may change between versions: a run resumed elsewhere sees the same order.
"""

import numpy as np

_ONE = np.uint64(1)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def permutation(count: int, *seed: int) -> np.ndarray:
    """int64 (count,): a uniformly random order of 0..count-1, fixed by the non-negative integers of `seed`."""
    raw = np.random.Philox(np.random.SeedSequence(seed)).random_raw(count)
    return np.argsort(raw, kind="stable")


def coins(positions: np.ndarray, seed: int) -> np.ndarray:
    """bool (n,): one fair coin for each position (SplitMix64 of seed and position), whatever the batch around it."""
    z = (positions.astype(np.uint64) + _ONE) * _GOLDEN + np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) & _ONE).astype(bool)
