"""Byte pair encoding, arXiv 1508.07909, on bytes: the 256 bytes and the most frequent joins of the training text.

Any text can be encoded. Hugging Face's `tokenizers` does the work; it is imported on first use.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from experiments.errors import UserError
from experiments.text.tokenizers import checked

_CHUNK = 1 << 16  # characters to learn from at a time


@dataclass(frozen=True, kw_only=True)
class BPE:
    """Learned tokens of one or more bytes; none crosses the border of a word.

    Args:
        model: the tokenizer in the JSON form of the `tokenizers` library.
    """

    model: str
    _inner: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        try:
            inner = _library().Tokenizer.from_str(self.model)
        except UserError:
            raise
        except Exception as error:  # the library raises plain Exception
            raise UserError(f"model must be JSON of the tokenizers library; reading it gave {error}.") from error
        object.__setattr__(self, "_inner", inner)

    @classmethod
    def learn(cls, text: str, size: int) -> "BPE":
        """At most `size` tokens from `text`; fewer where the text has no more pairs that come twice.

        Raises:
            UserError: fewer than 256 tokens, which could not hold the bytes.
        """
        if size < 256:
            raise UserError(f"BPE starts from 256 bytes; got a vocabulary of {size}. Pass at least 256.")
        library = _library()
        inner = library.Tokenizer(library.models.BPE())
        inner.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = library.decoders.ByteLevel()
        trainer = library.trainers.BpeTrainer(
            vocab_size=size,
            min_frequency=2,
            show_progress=False,
            initial_alphabet=sorted(library.pre_tokenizers.ByteLevel.alphabet()),
        )
        inner.train_from_iterator((text[i : i + _CHUNK] for i in range(0, len(text), _CHUNK)), trainer)
        return cls(model=inner.to_str())

    @property
    def size(self) -> int:
        return self._inner.get_vocab_size()

    def encode(self, text: str) -> np.ndarray:
        """int32 (n,), n at most the number of bytes."""
        return np.asarray(self._inner.encode(text).ids, np.int32)

    def decode(self, tokens: Iterable[int] | np.ndarray) -> str:
        """The text of tokens (n,). Raises `UserError` for an integer that is no token."""
        return self._inner.decode(checked(tokens, self.size).tolist(), skip_special_tokens=False)

    def to_json(self) -> dict[str, Any]:
        return {"kind": "bpe", "model": self.model}


def _library() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise UserError(
            "BPE needs the package tokenizers; it is not installed. Run pip install -e '.[experiments]', or use "
            "--data.unit character."
        ) from error
    return tokenizers
