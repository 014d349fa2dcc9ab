"""Windows of a stream of tokens, as examples for `experiments.data.batches`.

An epoch cuts the stream, from an offset of its own, into windows that do not overlap and shuffles them. So one epoch
sees a token at most once and leaves out fewer than 2 L, all at the two ends; over the epochs a window begins anywhere.
Taking every offset as an example would need a permutation as long as the text: for text8, 90 million numbers.
"""

from dataclasses import dataclass

import numpy as np

from experiments.errors import UserError

_OFFSETS = 0x0FF5E7  # keeps the draw of the offset apart from that of the order


@dataclass(frozen=True, kw_only=True, eq=False)
class Windows:
    """Stretches of `length` tokens; `len(...)` is the number in one epoch.

    Args:
        tokens: int32 (n,), the stream.
        length: tokens in a window, L.

    Raises:
        UserError: a stream shorter than one window, or a length below 1.
    """

    tokens: np.ndarray
    length: int

    def __post_init__(self) -> None:
        if self.length < 1:
            raise UserError(f"A window has at least one token; got length {self.length}. Pass, for example, 256.")
        if len(self.tokens) < self.length:
            raise UserError(
                f"A window of {self.length} tokens needs as many in the text; it has {len(self.tokens)}. Use a shorter "
                "window or a longer text."
            )

    def __len__(self) -> int:
        # One fewer than fit, so that every offset in 0..L-1 leaves room for all of them.
        return max(1, (len(self.tokens) - self.length + 1) // self.length)

    def offset(self, epoch: int, seed: int) -> int:
        """Where the first window of the epoch begins: uniform over all places that leave room for the last."""
        room = len(self.tokens) - len(self) * self.length + 1
        raw = np.random.Philox(np.random.SeedSequence((seed, epoch, _OFFSETS))).random_raw(1)[0]
        return int(raw) % room

    def take(self, examples: np.ndarray, epochs: np.ndarray, seed: int) -> dict[str, np.ndarray]:
        """`x0`, int32 (b, L): window `examples[i]` (b,) of epoch `epochs[i]` (b,)."""
        known = {epoch: self.offset(epoch, seed) for epoch in {*epochs.tolist()}}
        starts = np.array([known[epoch] for epoch in epochs.tolist()]) + examples * self.length
        return {"x0": self.tokens[starts[:, None] + np.arange(self.length)].astype(np.int32, copy=False)}


def spread(tokens: np.ndarray, length: int, count: int) -> np.ndarray:
    """int32 (at most count, length): windows that do not overlap, evenly spread over the stream, for evaluation.

    Raises:
        UserError: a stream shorter than one window.
    """
    whole = len(Windows(tokens=tokens, length=length).tokens) // length
    starts = length * np.unique(np.linspace(0, whole - 1, min(count, whole)).round().astype(int))
    return tokens[starts[:, None] + np.arange(length)]
