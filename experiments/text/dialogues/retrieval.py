"""Replies without a model of language: the most frequent one, and that of the nearest context of the training part."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from experiments.text.dialogues.dialogue import Dialogues, Exchange, prompt, slot_error
from experiments.text.rouge import rouge


def evaluate(replies: Sequence[str], exchanges: Sequence[Exchange]) -> dict[str, float]:
    """`rouge_1`, `rouge_2`, `rouge_l` (F against the reply that was given) and `slot_error`, all in [0, 1].

    `slot_error` is NaN where nothing is required.
    """
    scores = rouge(replies, [[e.reply] for e in exchanges])
    found = {name: scores[f"{name}_max"] for name in ("rouge_1", "rouge_2", "rouge_l")}
    return found | {"slot_error": slot_error(replies, exchanges)}


def baselines(data: Dialogues, *, turns: int = 3) -> dict[str, dict[str, float]]:
    """What replies to the test part achieve that are taken from the training part.

    Args:
        data: dialogues.
        turns: of the context that is compared.

    Returns:
        `frequent`, `nearest` and, where there are acts, `nearest_filled`, each as `evaluate` gives.
    """
    made = {
        "frequent": [frequent(data.train)] * len(data.test),
        "nearest": nearest(data.train, data.test, turns=turns),
    }
    if any(e.acts for e in data.test):
        made["nearest_filled"] = nearest_filled(data.train, data.test, turns=turns)
    return {name: evaluate(replies, data.test) for name, replies in made.items()}


def frequent(train: Sequence[Exchange]) -> str:
    """The most frequent reply; of equals the first to occur."""
    return Counter(e.reply for e in train).most_common(1)[0][0]


def nearest(train: Sequence[Exchange], test: Sequence[Exchange], *, turns: int = 3) -> list[str]:
    """The reply to the training context with the largest cosine to each test context, TF-IDF of words and pairs.

    Acts are not looked at. The first of equals.
    """
    closeness = _closeness(train, test, turns)
    return [train[int(i)].reply for i in closeness.argmax(axis=1)]


def nearest_filled(train: Sequence[Exchange], test: Sequence[Exchange], *, turns: int = 3) -> list[str]:
    """As `nearest`, but among the training exchanges with the same acts and slots, its values exchanged for the right.

    Where none has the same acts and slots: among those that share most of them.
    """
    closeness = _closeness(train, test, turns)
    kinds = defaultdict(list)
    for i, e in enumerate(train):
        kinds[_kind(e)].append(i)
    replies = []
    for row, e in zip(closeness, test, strict=True):
        kind = _kind(e)
        # Its own kind where that occurs: then nothing differs.
        best = max(kinds, key=lambda k: len(k & kind) - len(k ^ kind))
        candidates = kinds[best]
        chosen = candidates[int(row[candidates].argmax())]
        replies.append(_filled(train[chosen], e))
    return replies


def _closeness(train: Sequence[Exchange], test: Sequence[Exchange], turns: int) -> np.ndarray:
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    known = words.fit_transform([prompt(e, turns=turns, acts=False) for e in train])
    asked = words.transform([prompt(e, turns=turns, acts=False) for e in test])
    return (asked @ known.T).toarray()


def _kind(exchange: Exchange) -> frozenset[tuple[str, str, int]]:
    return frozenset((a.name, a.slot, len(a.values)) for a in exchange.acts)


def _filled(found: Exchange, wanted: Exchange) -> str:
    """The found reply with the values of the wanted acts."""
    right = {(a.name, a.slot): a.values for a in wanted.acts}
    swaps: dict[str, str] = {}
    for act in found.acts:
        if act.slot not in ("", "intent"):
            for old, new in zip(act.values, right.get((act.name, act.slot), ()), strict=False):
                swaps.setdefault(old.casefold(), new)
    if not swaps:
        return found.reply
    # All at once, the longest first, so that no value is exchanged within another that has just been put in.
    names = "|".join(re.escape(old) for old in sorted(swaps, key=len, reverse=True))
    return re.sub(rf"(?<!\w)(?:{names})(?!\w)", lambda m: swaps[m.group().casefold()], found.reply, flags=re.IGNORECASE)
