"""What a sentence of an abstract looks like, in numbers: its place, its length, its cue phrases, its words.

Every number is of one abstract and of the training abstracts alone.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

_WE = re.compile(
    r"\b(?:we|this (?:paper|work|article|study)|(?:in|here),? we)\b.{0,60}?"
    r"\b(?:propos|present|introduc|develop|describ|stud(?:y|ies)|investigat|provid|show|demonstrat|design|explor)",
    re.IGNORECASE,
)
_CUES: dict[str, re.Pattern[str]] = {
    "we_propose": re.compile(r"\bwe\b.{0,40}?\b(?:propos|present|introduc|develop|describ)", re.IGNORECASE),
    "we_show": re.compile(r"\bwe\b.{0,40}?\b(?:show|demonstrat|prove|find|evaluat|validat|report)", re.IGNORECASE),
    "we_study": re.compile(r"\bwe\b.{0,40}?\b(?:stud|investigat|explor|analy|examin|provid|design)", re.IGNORECASE),
    "we": re.compile(r"\b(?:we|our)\b", re.IGNORECASE),
    "this_paper": re.compile(r"\b(?:this|the present) (?:paper|work|article|study)\b", re.IGNORECASE),
    "contrast": re.compile(r"\b(?:however|but|although|despite|unfortunately|yet)\b", re.IGNORECASE),
    "results": re.compile(r"\b(?:experiment|results?|outperform|state[- ]of[- ]the[- ]art|empirical)", re.IGNORECASE),
    "background": re.compile(r"\b(?:recent|many|often|typically|existing|previous|has been|have been)", re.IGNORECASE),
    "more": re.compile(r"\b(?:furthermore|moreover|in addition|additionally|finally|also)\b", re.IGNORECASE),
    "link": re.compile(r"https?://|\bcode\b.{0,40}\bavailable\b", re.IGNORECASE),
    "novel": re.compile(r"\b(?:novel|new)\b", re.IGNORECASE),
    "digits": re.compile(r"\d"),
    "whole": re.compile(r"^[A-Z\"“(].*[.!?][\"'”\u2019)\]]*$"),
}
SIMPLE = ("place", "place_from_end", "first", "last", "one_of", "words", "share_of_words", *_CUES, "words_past_cue")
"""Names of the features of place, length and cues, the first of all."""


def has_cue(sentence: str) -> bool:
    """Whether the sentence says what the paper does: "we propose", "this paper presents" and the like."""
    return _WE.search(sentence) is not None


def simple(sentences: Sequence[str]) -> np.ndarray:
    """float64 (n, len(SIMPLE)): place, length and cue phrases of the n sentences of one abstract."""
    n = len(sentences)
    lengths = np.array([len(s.split()) for s in sentences], np.float64)
    cues = np.array([[p.search(s) is not None for p in _CUES.values()] for s in sentences], np.float64)
    past = np.cumsum([has_cue(s) for s in sentences]) - [has_cue(s) for s in sentences]
    place = np.arange(n, dtype=np.float64)
    return np.column_stack(
        [
            place / max(n - 1, 1),
            np.minimum(n - 1 - place, 5) / 5,
            place == 0,
            place == n - 1,
            np.full(n, 1 / n),
            np.log1p(lengths),
            lengths / max(lengths.sum(), 1),
            cues,
            np.minimum(past, 3),
        ]
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Features:
    """Features of sentences, fitted to the training abstracts: `SIMPLE`, closeness to the abstract, and topics.

    Topics are the leading components of the TF-IDF vectors of sentences. All are centred and scaled by what they are
    over the training sentences.
    """

    names: tuple[str, ...]
    _tfidf: Any
    _topics: Any
    _mean: np.ndarray
    _scale: np.ndarray

    @classmethod
    def fit(cls, abstracts: Sequence[Sequence[str]], *, topics: int) -> "Features":
        """Of the training abstracts; `topics` is the number of components, at least one."""
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        tfidf = TfidfVectorizer(stop_words="english", min_df=2, sublinear_tf=True)
        vectors = tfidf.fit_transform([s for sentences in abstracts for s in sentences])
        svd = TruncatedSVD(topics, random_state=0, n_iter=4).fit(vectors)
        names = (*SIMPLE, "closeness", "closeness_to_others", *(f"topic_{k}" for k in range(topics)))
        raw = cls(names=names, _tfidf=tfidf, _topics=svd, _mean=np.zeros(len(names)), _scale=np.ones(len(names)))
        values = np.concatenate(raw(abstracts))
        scale = values.std(axis=0)
        return replace(raw, _mean=values.mean(axis=0), _scale=np.where(scale > 0, scale, 1.0))

    def __call__(self, abstracts: Sequence[Sequence[str]]) -> list[np.ndarray]:
        """float64 (n, len(names)) of each abstract of n sentences."""
        from scipy.sparse import csr_array

        lengths = np.array([len(sentences) for sentences in abstracts])
        owner = np.repeat(np.arange(len(abstracts)), lengths)
        # One call for all: a call an abstract would spend ten times as long on scikit-learn's checks.
        vectors = self._tfidf.transform([s for sentences in abstracts for s in sentences])
        belongs = csr_array((np.ones(len(owner)), (owner, np.arange(len(owner)))))
        centroids = belongs @ vectors
        norms = np.sqrt(np.asarray(centroids.multiply(centroids).sum(axis=1)).ravel())
        products = np.asarray(vectors.multiply(centroids[owner]).sum(axis=1)).ravel()
        own = np.asarray(vectors.multiply(vectors).sum(axis=1)).ravel()
        values = np.column_stack(
            [
                np.concatenate([simple(sentences) for sentences in abstracts]),
                products / np.maximum(norms[owner], 1e-6),  # an abstract of no known word has no direction
                products - own,
                self._topics.transform(vectors),
            ]
        )
        return np.split((values - self._mean) / self._scale, np.cumsum(lengths)[:-1])
