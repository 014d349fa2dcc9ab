"""What every source of text returns: three streams of tokens and what makes text of them again."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np

from experiments.data.images import Progress, silent
from experiments.errors import UserError
from experiments.text.bpe import BPE
from experiments.text.tokenizers import Bytes, Characters, Tokenizer

Unit: TypeAlias = Literal["character", "byte", "bpe"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Texts:
    """A text in three parts that share no character.

    Args:
        name: short name, for logs and run directories.
        train, validation, test: int32 (n,), tokens in 0..tokenizer.size - 1.
        tokenizer: made from the training part alone.
        characters_per_token: of the test part; bits a token divided by it are bits a character.
        checksum: sha256 (64 hex digits) of the training tokens and the tokenizer.
        provenance: source, licence, and the TFDS name and version that was read.
    """

    name: str
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    tokenizer: Tokenizer
    characters_per_token: float
    checksum: str
    provenance: str


class Source(Protocol):
    """A description of text that a recipe holds; `load` prepares it on first use and reads it."""

    def load(self, progress: Progress = silent) -> Texts: ...


def split(text: str) -> dict[str, str]:
    """The first 90 % of the characters to train, the next 5 % to validate, the rest to test: as TFDS does."""
    train = int(len(text) * 0.9)
    validation = train + int((len(text) - train) * 0.5)
    return {"train": text[:train], "validation": text[train:validation], "test": text[validation:]}


def make(name: str, parts: Mapping[str, str], *, unit: Unit, vocabulary: int, provenance: str) -> Texts:
    """Tokens of the parts "train", "validation" and "test".

    Args:
        unit: what a token is: a character of the training part, a byte, or what byte pair encoding learns from it.
        vocabulary: tokens that bpe may have.

    Raises:
        UserError: an empty part, or a character that the training part does not have.
    """
    for part, text in parts.items():
        if not text:
            raise UserError(f"{name} needs some text in each part; {part} is empty. Take a longer text.")
    tokenizer = tokenizer_of(parts["train"], unit=unit, vocabulary=vocabulary)
    streams = {}
    for part, text in parts.items():
        try:
            streams[part] = tokenizer.encode(text)
        except UserError as error:
            raise UserError(f"{name}, part {part}: {error}") from error
    digest = hashlib.sha256(streams["train"].astype("<i4").tobytes())
    digest.update(json.dumps(tokenizer.to_json(), sort_keys=True).encode())
    return Texts(
        name=name,
        **streams,
        tokenizer=tokenizer,
        characters_per_token=len(parts["test"]) / len(streams["test"]),
        checksum=digest.hexdigest(),
        provenance=provenance,
    )


def tokenizer_of(text: str, *, unit: Unit, vocabulary: int) -> Tokenizer:
    """The tokenizer that a training text asks for; arguments as for `make`."""
    if unit == "character":
        return Characters.of(text)
    if unit == "byte":
        return Bytes()
    if unit == "bpe":
        return BPE.learn(text, vocabulary)
    raise UserError(f"unit must be character, byte or bpe; got {unit!r}. Pass one of them as --data.unit.")
