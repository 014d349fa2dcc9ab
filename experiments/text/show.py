"""Tokens as people read them, noisy ones too."""

import itertools

import numpy as np

from experiments.info import DataInfo
from experiments.text.bits import from_bits

MASK = "░"


def shown(info: DataInfo, x: np.ndarray) -> str:
    """One sequence as text: tokens (L,), with a block for each that stands for nothing, or analog bits (L, bits)."""
    ids = x if info.tokens else from_bits(x)
    runs = itertools.groupby(ids.tolist(), key=lambda token: token < info.tokenizer.size)
    return "".join(
        info.tokenizer.decode(np.array(list(run), np.int32)) if known else MASK * len(list(run)) for known, run in runs
    )
