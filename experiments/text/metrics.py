"""What samples of text are like, without a model to judge them: variety, words, and what they copy.

All need a fixed length of passage to be compared: a longer one has a higher entropy and a smaller share of distinct
n-grams. So figures of a model stand beside those of as many held-out passages of the same length.
"""

import re
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from functools import lru_cache

import numpy as np

from experiments.text.copies import copied, longest_copy
from experiments.text.rouge import rouge

__all__ = ["copied", "describe", "distinct", "entropy", "longest_copy", "rouge", "valid_words", "words"]

_WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*")


def entropy(passages: Iterable[Sequence[Hashable]]) -> float:
    """Bits a token: the entropy of the frequencies of tokens within a passage, averaged over passages.

    A passage that repeats itself has little, though all passages together may have much. NaN for no passage.
    """
    found = []
    for passage in passages:
        counts = np.array(list(Counter(passage).values()), np.float64)
        p = counts / counts.sum()
        found.append(-(p * np.log2(p)).sum() + 0.0)
    return float(np.mean(found)) if found else float("nan")


def distinct(passages: Iterable[Sequence[Hashable]], n: int) -> float:
    """Distinct-n, arXiv 1510.03055: different n-grams over n-grams, of all passages together; in (0, 1].

    NaN where no passage has n tokens.
    """
    grams = [tuple(p[i : i + n]) for p in passages for i in range(len(p) - n + 1)]
    return len(set(grams)) / len(grams) if grams else float("nan")


def words(passage: str) -> list[str]:
    """The words of a passage, without capitals; of letters, with apostrophes inside."""
    return _WORD.findall(passage.casefold())


def valid_words(passages: Iterable[str], seen: str) -> float:
    """The share of the words of the passages that stand in `seen` somewhere, in [0, 1].

    A word at the edge of a passage is left out: the window may have cut it. NaN for no word.
    """
    known = _vocabulary(seen)
    found = [
        match.group() in known
        for passage in (passage.casefold() for passage in passages)
        for match in _WORD.finditer(passage)
        if match.start() > 0 and match.end() < len(passage)
    ]
    return float(np.mean(found)) if found else float("nan")


def describe(passages: Sequence[str], seen: str) -> dict[str, float]:
    """All of these for passages of text, `seen` the training text.

    Returns:
        `entropy`, bits a character; `distinct_1` to `distinct_4`, of words; `words`, the share of valid ones; `copied`,
        the share of stretches of 20 characters that stand in the training text; `longest_copy`, characters.
    """
    split = [words(passage) for passage in passages]
    return {
        "entropy": entropy(passages),
        **{f"distinct_{n}": distinct(split, n) for n in (1, 2, 3, 4)},
        "words": valid_words(passages, seen),
        "copied": copied(passages, seen),
        "longest_copy": float(len(longest_copy(passages, seen))),
    }


@lru_cache(maxsize=1)
def _vocabulary(seen: str) -> frozenset[str]:
    """Of the text that all sets of samples are compared with: found once."""
    return frozenset(words(seen))
