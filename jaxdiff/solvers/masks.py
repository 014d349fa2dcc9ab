"""What solvers of masked tokens ask of a process: one state that every jump goes to and that data cannot have."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from jaxdiff.types import is_traced


def mask_state(process: Any, solver: Any) -> int | Int[Array, ""]:
    """The mask of a process such as `Discrete.masked(tokens)`.

    Args:
        process: gives `pi` (V,), the law that a token jumps to, and `tokens`, how many values data have.
        solver: named in the message.

    Raises:
        ValueError: a process without masks, or one whose jumps go elsewhere too, where the values of pi are known.
    """
    pi, name = getattr(process, "pi", None), type(solver).__name__
    if pi is None or pi.shape[0] == process.tokens:
        raise ValueError(
            f"{name} needs tokens that become masks, got {type(process).__name__} without a mask; "
            "Discrete.masked(tokens) is such a process, and Ancestral() samples any other"
        )
    if not is_traced(pi) and not (np.asarray(pi)[process.tokens :] == 1).any():
        share = float(np.asarray(pi)[process.tokens :].max())
        raise ValueError(
            f"{name} needs a process whose jumps all go to the mask, got one that sends {share:g} of them there; use "
            "Discrete.masked(tokens) without a uniform share, or Ancestral()"
        )
    return process.tokens if pi.shape[0] == process.tokens + 1 else jnp.argmax(jnp.asarray(pi))
