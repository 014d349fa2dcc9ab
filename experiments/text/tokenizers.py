"""Text to integers and back: one token a character, or one a byte; `bpe` learns longer ones.

```
tokenizer.size             tokens are 0 .. size - 1
tokenizer.encode(text)     int32 (n,)
tokenizer.decode(tokens)   str
tokenizer.to_json()        a dictionary for a run directory; `from_json` makes the tokenizer again
```
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from experiments.errors import UserError

_SHOWN = 10
_UNKNOWN = 0x110000  # no character has this number


class Tokenizer(Protocol):
    """What every tokenizer of text does; a frozen object, equal to another that splits text alike."""

    @property
    def size(self) -> int: ...
    def encode(self, text: str) -> np.ndarray: ...
    def decode(self, tokens: Iterable[int] | np.ndarray) -> str: ...
    def to_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True, kw_only=True)
class Characters:
    """One token for each Unicode character.

    Args:
        symbols: the characters, none twice; token i is the i-th.
    """

    symbols: str

    def __post_init__(self) -> None:
        if not self.symbols or len(set(self.symbols)) < len(self.symbols):
            raise UserError(
                f"symbols must be characters without repetition; got {self.symbols!r}. Leave out repetitions."
            )

    @classmethod
    def of(cls, text: str) -> "Characters":
        """The characters of `text`, in the order of their code points."""
        return cls(symbols=_to_text(np.unique(_to_codes(text))))

    @property
    def size(self) -> int:
        return len(self.symbols)

    def encode(self, text: str) -> np.ndarray:
        """int32 (n,), n the number of characters.

        Raises:
            UserError: characters that are not among the symbols; it names them and where the first stands.
        """
        known, codes = _to_codes(self.symbols), _to_codes(text)
        order = np.argsort(known)
        places = np.searchsorted(known[order], codes)
        wrong = np.append(known[order], _UNKNOWN)[places] != codes
        if wrong.any():
            raise UserError(_unknown(text, codes, wrong, self.size))
        return order[places].astype(np.int32)

    def decode(self, tokens: Iterable[int] | np.ndarray) -> str:
        """The characters of tokens (n,). Raises `UserError` for an integer that is no token."""
        return _to_text(_to_codes(self.symbols)[checked(tokens, self.size)])

    def to_json(self) -> dict[str, Any]:
        return {"kind": "characters", "symbols": self.symbols}


@dataclass(frozen=True, kw_only=True)
class Bytes:
    """One token for each byte of the UTF-8 form: 256 tokens, any text. Bytes that are no UTF-8 are shown as U+FFFD."""

    @property
    def size(self) -> int:
        return 256

    def encode(self, text: str) -> np.ndarray:
        """int32 (n,), n the number of bytes."""
        return np.frombuffer(text.encode(), np.uint8).astype(np.int32)

    def decode(self, tokens: Iterable[int] | np.ndarray) -> str:
        """The text of bytes (n,). Raises `UserError` for an integer outside 0..255."""
        return checked(tokens, self.size).astype(np.uint8).tobytes().decode(errors="replace")

    def to_json(self) -> dict[str, Any]:
        return {"kind": "bytes"}


def from_json(description: dict[str, Any]) -> Tokenizer:
    """The tokenizer that `to_json` described.

    Raises:
        UserError: another kind, or a damaged description.
    """
    from experiments.text.bpe import BPE

    fields = dict(description)
    kinds = {"characters": Characters, "bytes": Bytes, "bpe": BPE}
    kind = fields.pop("kind", None)
    try:
        return kinds[kind](**fields)
    except (KeyError, TypeError) as error:
        raise UserError(
            f"A tokenizer is described by a kind among {', '.join(kinds)} and its fields; got kind {kind!r} with "
            f"{sorted(fields)}. Take the description that to_json gave."
        ) from error


def checked(tokens: Iterable[int] | np.ndarray, size: int) -> np.ndarray:
    """int64 (n,): the tokens, all in 0..size - 1.

    Raises:
        UserError: a number outside; a mask token, for example, stands for no text.
    """
    array = np.asarray(tokens if isinstance(tokens, np.ndarray) else list(tokens))
    if not array.size:
        return np.zeros(0, np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise UserError(f"decode takes integers of one sequence, (n,); got {array.dtype} {array.shape}. Pass one row.")
    if array.min() < 0 or array.max() >= size:
        wrong = sorted({*array[(array < 0) | (array >= size)].tolist()})[:_SHOWN]
        raise UserError(
            f"Tokens must lie in 0..{size - 1}; got {wrong}. Replace what stands for no text, as a mask does."
        )
    return array.astype(np.int64)


def _to_codes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _to_text(codes: np.ndarray) -> str:
    return codes.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")


def _unknown(text: str, codes: np.ndarray, wrong: np.ndarray, size: int) -> str:
    first = int(np.argmax(wrong))
    symbols = _to_text(np.unique(codes[wrong]))
    named = ", ".join(f"{c!r} (U+{ord(c):04X})" for c in symbols[:_SHOWN])
    more = f" and {len(symbols) - _SHOWN} others" if len(symbols) > _SHOWN else ""
    line = text.count("\n", 0, first) + 1
    return (
        f"The vocabulary of {size} characters lacks {named}{more}: {int(wrong.sum())} of {len(text)} characters, the "
        f"first at position {first} (line {line}), in {text[max(0, first - 10) : first + 11]!r}. Replace them, or use "
        "tokens that hold any text: --data.unit byte or --data.unit bpe."
    )
