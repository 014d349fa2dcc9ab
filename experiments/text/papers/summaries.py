"""Extractive summaries as tokens: one keep-label a sentence of an abstract, and what simple rules achieve.

x0[s] = 1 for the sentence that is the summary: the one with the largest ROUGE-1 F over the references, the first of
equals. A model of labels given features of sentences is a model of summaries. Figures are of the test part; ROUGE is
`experiments.text.rouge` (words of a-z and 0-9, no stemming), the best and the mean over an abstract's references.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from experiments.data.images import Progress, silent
from experiments.errors import UserError
from experiments.text.pairs import Pairs, pairs
from experiments.text.papers.cues import SIMPLE, Features, has_cue
from experiments.text.papers.scitldr import Paper, SciTldr
from experiments.text.rouge import rouge
from experiments.text.tokenizers import Tokenizer

TOKENS = 2
"""Labels are 0, left out, and 1, kept."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Abstracts:
    """N abstracts as arrays of S places, and what they were made of; examples for `experiments.data.batches`.

    Args:
        x0: int32 (N, S), 1 for the kept sentence and 0 elsewhere: exactly one in each row.
        features: float32 (N, S, F), centred and scaled; 0 at padding.
        observed: bool (N, S), True at padding, where x0 is 0.
        scores: float32 (N, S), the ROUGE-1 F of each sentence, the best over references, in [0, 1]; 0 at padding.
        sentences: those of each abstract, at most S.
        references: the summaries of each.
        cut: abstracts that had more sentences than S and lost the last ones.
    """

    x0: np.ndarray
    features: np.ndarray
    observed: np.ndarray
    scores: np.ndarray
    sentences: tuple[tuple[str, ...], ...]
    references: tuple[tuple[str, ...], ...]
    cut: int

    def __len__(self) -> int:
        return len(self.x0)

    def take(self, examples: np.ndarray, epochs: np.ndarray, seed: int) -> dict[str, np.ndarray]:
        """`x0` (b, S), `observed` (b, S) and `cond` (b, S, F) of the examples (b,)."""
        return {"x0": self.x0[examples], "observed": self.observed[examples], "cond": self.features[examples]}


@dataclass(frozen=True, kw_only=True, eq=False)
class Summaries:
    """Three parts; features are fitted to the training part alone.

    Args:
        train, validation, test: abstracts.
        features: of sentences, fitted to the training part; `features.names` are F.
        checksum, provenance: of the papers.
    """

    train: Abstracts
    validation: Abstracts
    test: Abstracts
    features: Features
    checksum: str
    provenance: str


def load(source: SciTldr, *, length: int = 28, topics: int = 16, progress: Progress = silent) -> Summaries:
    """Reads papers and makes arrays of them, in about ten seconds.

    Args:
        source: where from.
        length: places, S; 28 hold 99.7 % of the abstracts of each part whole, 16 hold 99.9 % with `rejoin`.
        topics: components of TF-IDF among the features; F = 23 + topics.
        progress: told of downloads.

    Raises:
        UserError: the files cannot be had, or a length or topics below 1.
    """
    if length < 1 or topics < 1:
        raise UserError(f"length and topics are at least 1; got {length} and {topics}. Pass, for example, 28 and 16.")
    papers = source.load(progress)
    features = Features.fit([p.sentences for p in papers.train], topics=topics)
    parts = {part: arrays(getattr(papers, part), features, length) for part in ("train", "validation", "test")}
    return Summaries(**parts, features=features, checksum=papers.checksum, provenance=papers.provenance)


def arrays(papers: Sequence[Paper], features: Features, length: int) -> Abstracts:
    """The arrays of papers, `length` places each. Features see the whole abstract, before it is cut."""
    n = len(papers)
    values = np.zeros((n, length, len(features.names)), np.float32)
    scores = np.zeros((n, length), np.float32)
    observed = np.ones((n, length), bool)
    for i, (paper, found) in enumerate(zip(papers, features([p.sentences for p in papers]), strict=True)):
        here = min(len(paper.sentences), length)
        values[i, :here] = found[:here]
        scores[i, :here] = rouge_1(paper.sentences[:here], paper.references)
        observed[i, :here] = False
    x0 = np.zeros((n, length), np.int32)
    x0[np.arange(n), scores.argmax(axis=1)] = 1
    return Abstracts(
        x0=x0,
        features=values,
        observed=observed,
        scores=scores,
        sentences=tuple(p.sentences[:length] for p in papers),
        references=tuple(p.references for p in papers),
        cut=sum(len(p.sentences) > length for p in papers),
    )


def sentences(text: str) -> list[str]:
    """The sentences of a text: they end in . ! or ? before white space and a capital, a digit or a quotation mark."""
    return [s for s in re.split(r"(?<=[.!?])\s+(?=[A-Z0-9\"“])", " ".join(text.split())) if s]


def row(sentences: Sequence[str], features: Features, length: int) -> dict[str, np.ndarray]:
    """One abstract without labels as `Abstracts.take` gives it, (1, length); n of at most `length` sentences."""
    n, cond = len(sentences), np.zeros((1, length, len(features.names)), np.float32)
    cond[0, :n] = features([sentences])[0]
    return {"x0": np.zeros((1, length), np.int32), "observed": np.arange(length)[None] >= n, "cond": cond}


def rouge_1(sentences: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """float64 (n,): ROUGE-1 F of each sentence, the best over references, in [0, 1]."""
    try:
        from rouge_score.tokenize import tokenize
    except ImportError as error:
        raise UserError(
            "ROUGE needs the package rouge-score; it is not installed. Run pip install -e '.[experiments]'."
        ) from error
    # Its tokenizer, but each text is read once: the scorer reads a reference anew for every sentence.
    counts = [[Counter(tokenize(text, None)) for text in texts] for texts in (sentences, references)]
    scores = [max(2 * (a & b).total() / max(a.total() + b.total(), 1) for b in counts[1]) for a in counts[0]]
    return np.array(scores, np.float64)


def from_labels(sentences: Sequence[str], labels: np.ndarray) -> str:
    """The kept sentences in their order; "" where none of them is.

    Args:
        sentences: n of one abstract.
        labels: integers (S,), S at least n, 0 or 1; those at padding are not looked at.

    Raises:
        UserError: too few labels, or another label.
    """
    kept = np.asarray(labels)[: len(sentences)]
    if len(kept) < len(sentences) or not np.isin(kept, (0, 1)).all():
        raise UserError(
            f"Labels are 0 or 1, one for each of {len(sentences)} sentences; got {np.asarray(labels).tolist()}."
        )
    return " ".join(s for s, keep in zip(sentences, kept, strict=True) if keep)


def from_scores(sentences: Sequence[str], scores: np.ndarray, *, count: int = 1) -> str:
    """The `count` sentences with the highest scores, in their order; the earlier of equals.

    Args:
        sentences: n of one abstract.
        scores: (S,), S at least n, such as probabilities that a sentence is kept; padding is not looked at.
        count: sentences of the summary, at least 1.

    Raises:
        UserError: too few scores, one that is not finite, or a count below 1.
    """
    values = np.asarray(scores, np.float64)[: len(sentences)]
    if len(values) < len(sentences) or not np.isfinite(values).all() or count < 1:
        raise UserError(
            f"A summary needs a finite score for each of {len(sentences)} sentences and a count of at least 1; got "
            f"{np.asarray(scores).tolist()} and {count}."
        )
    best = np.sort(np.argsort(-values, kind="stable")[:count])
    return " ".join(sentences[int(i)] for i in best)


def evaluate(summaries: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """ROUGE-1, -2 and -L F in [0, 1] of summaries against their references: `rouge_1_max`, `rouge_1_mean`, ..."""
    return rouge(summaries, references)


def baselines(data: Summaries) -> dict[str, dict[str, float]]:
    """ROUGE on the test part of summaries that no diffusion is needed for, from the worst to the best one can do.

    Returns:
        `lead`, the first sentence; `cue`, the first that says "we propose" or the like, else the first; `trees`,
        gradient-boosted trees on place, length and cues, fitted to the training part; `oracle`, the sentence with the
        largest ROUGE-1: a bound. Each as `evaluate` gives.
    """
    test = data.test
    chosen: Mapping[str, np.ndarray] = {
        "lead": np.zeros(len(test), int),
        "cue": np.array([next((i for i, s in enumerate(row) if has_cue(s)), 0) for row in test.sentences]),
        "trees": trees(data.train, test),
        "oracle": test.x0.argmax(axis=1),
    }
    return {name: evaluate(pick(test, chosen[name]), test.references) for name in chosen}


def pick(part: Abstracts, chosen: np.ndarray) -> list[str]:
    """The sentence of each abstract that `chosen` (N,) names, in 0..n - 1."""
    return [row[int(i)] for row, i in zip(part.sentences, chosen, strict=True)]


def trees(train: Abstracts, test: Abstracts) -> np.ndarray:
    """int64 (N,): the sentence of each test abstract that trees on the `SIMPLE` features expect most of.

    They are fitted to the ROUGE-1 of training sentences, relative to their abstract's mean.
    """
    from sklearn.ensemble import HistGradientBoostingRegressor
    from threadpoolctl import threadpool_limits

    inside = ~train.observed
    mean = train.scores.sum(axis=1) / inside.sum(axis=1)
    target = (train.scores - mean[:, None])[inside]
    columns = slice(0, len(SIMPLE))
    model = HistGradientBoostingRegressor(max_iter=150, learning_rate=0.05, max_leaf_nodes=15, random_state=0)
    expected = np.full(test.x0.shape, -np.inf)
    with threadpool_limits(1):  # on so few rows threads wait for one another, for many times as long as they work
        model.fit(train.features[inside][:, columns], target)
        expected[~test.observed] = model.predict(test.features[~test.observed][:, columns])
    return expected.argmax(axis=1)


def abstractive(papers: Sequence[Paper], tokenizer: Tokenizer, *, abstract_length: int, summary_length: int) -> Pairs:
    """Windows of an abstract and its first reference, to write summaries rather than to choose sentences.

    An abstract that is too long keeps its beginning; how many were cut stands in `cut_prompts` and `cut_targets`.
    """
    return pairs(
        [" ".join(paper.sentences) for paper in papers],
        [paper.references[0] for paper in papers],
        tokenizer,
        prompt_length=abstract_length,
        target_length=summary_length,
        keep="beginning",
    )
