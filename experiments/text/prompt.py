"""A prompt as observed tokens: what stands in it is known, `___` in it is a gap to fill, and what follows is open."""

import re
from dataclasses import dataclass

import numpy as np

from experiments.errors import UserError
from experiments.info import DataInfo

_GAP = re.compile("_{3,}")


@dataclass(frozen=True, eq=False)
class Prompt:
    """Known tokens of one window.

    Attributes:
        mask: bool (L,), where a token is known.
        value: int32 (L,), what it is; 0 elsewhere.
        shown: how many tokens are the answer: to the end of a prompt with gaps, or the whole window.
    """

    mask: np.ndarray
    value: np.ndarray
    shown: int


def parse(text: str, info: DataInfo, gap: int) -> Prompt:
    """The prompt `text` for a network of `info`.

    Args:
        gap: tokens that each `___` stands for.

    Raises:
        UserError: a prompt that is longer than the window or leaves nothing to write, or a character that the tokenizer
            does not know.
    """
    if not info.tokens:
        raise UserError("a prompt is made of known tokens, and this run works on their bits; use a run of text_char")
    length, pieces = info.shape[0], _GAP.split(text)
    if gap < 1:
        raise UserError(f"--gap must be at least 1, got {gap}")
    mask, value = [], []
    for i, piece in enumerate(pieces):
        tokens = info.tokenizer.encode(piece).tolist() if piece else []
        hole = gap if i < len(pieces) - 1 else 0
        mask += [True] * len(tokens) + [False] * hole
        value += tokens + [0] * hole
    if len(mask) > length:
        raise UserError(
            f"the prompt takes {len(mask)} tokens and the run's window has {length}; shorten it"
            + (", or use a smaller --gap" if len(pieces) > 1 else "")
        )
    if all(mask) and len(mask) == length:
        raise UserError(f"the prompt fills the run's window of {length} tokens: nothing is left to write; shorten it")
    rest = length - len(mask)
    return Prompt(
        mask=np.array(mask + [False] * rest),
        value=np.array(value + [0] * rest, np.int32),
        shown=len(mask) if len(pieces) > 1 else length,
    )
