"""Text of which a part is given: what a run is trained on, and how what it makes of the given part is judged.

A source of a recipe (`replies.Replies`, `summarizing.KeptSentences`, `summarizing.WrittenSummaries`) loads a `Task`.
Training, sampling and evaluation know nothing else of dialogues and papers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from experiments.errors import UserError
from experiments.text.tokenizers import checked

Figures = dict[str, float]


class Examples(Protocol):
    """Rows as `experiments.data.batches` takes them: `x0` and `observed`, (b, L), maybe `cond` (b, L, features)."""

    def __len__(self) -> int: ...
    def take(self, examples: np.ndarray, epochs: np.ndarray, seed: int) -> dict[str, np.ndarray]: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """Three parts, of which `observed` says what is given, and a judge of what was found for the test part.

    Args:
        name, checksum, provenance: which data these are.
        train, validation, test: examples of L tokens.
        tokenizer: of these tokens, 0..size - 1.
        length: tokens of an example, L.
        features: numbers known of each token; 0 for none.
        prompt_length: places at the beginning for a prompt, the separator not among them; 0 where it is no text.
        votes: samples an example that `read` decides among.
        given: each test example's given part, as people read it.
        wanted: each test example's reference.
        read: `(tokens (votes, n, L), rows (n,)) -> n texts` of test examples `rows`.
        judge: `(texts, rows) -> figures` of texts for test examples `rows`.
        baselines: `() -> figures by name` of rules and models without diffusion on the whole test part.
        ask: a text of a user as a row to sample.
        shown: figures to print, in this order.
    """

    name: str
    checksum: str
    provenance: str
    train: Examples
    validation: Examples
    test: Examples
    tokenizer: Any
    length: int
    features: int = 0
    prompt_length: int = 0
    votes: int = 1
    given: Sequence[str]
    wanted: Sequence[str]
    read: Callable[[np.ndarray, np.ndarray], list[str]]
    judge: Callable[[Sequence[str], np.ndarray], Figures]
    baselines: Callable[[], dict[str, Figures]]
    ask: Callable[[str], "Question"]
    shown: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Paired:
    """The tokens of `Pairs`: those of a text, then the separator, shown as a new line and an arrow, and the end."""

    text: Any

    @property
    def size(self) -> int:
        return self.text.size + 2

    def encode(self, text: str) -> np.ndarray:
        return self.text.encode(text)

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """The text of tokens (n,), up to the ends. Raises `UserError` for an integer that is no token."""
        ids = checked(tokens, self.size)
        parts = np.split(ids, np.flatnonzero(ids == self.text.size))
        return "\n-> ".join(self.text.decode(part[part < self.text.size]) for part in parts)


@dataclass(frozen=True, kw_only=True)
class Marks:
    """Labels as characters, one for each: no text can be made of them or they of text."""

    symbols: str

    @property
    def size(self) -> int:
        return len(self.symbols)

    def encode(self, text: str) -> np.ndarray:
        raise UserError("labels are not made of text; give the text itself, as the run's task takes it")

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        return "".join(self.symbols[i] for i in checked(tokens, self.size))


@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """What a user gave: `row` as a batch of one, and what says the answer of tokens (votes, L)."""

    row: dict[str, np.ndarray]
    answer: Callable[[np.ndarray], str]
