"""What a process of tokens asks of its arguments, with messages that say what to do."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.processes.observed import Observed
from jaxdiff.types import Schedule, expand, is_traced


def check_law(pi: Any) -> None:
    """One probability for each state, where the values are known."""
    if pi.ndim != 1 or not pi.size:
        raise ValueError(f"pi must be one probability for each state, shape (V,), got {pi.shape}")
    if not is_traced(pi):
        pi = np.asarray(pi, np.float64)
        if not (pi >= 0).all() or abs(pi.sum() - 1) > 1e-4:
            raise ValueError(
                f"pi must have no negative entry and the sum 1, got a smallest entry of {pi.min():g} and a sum of "
                f"{pi.sum():g}; divide counts by their sum"
            )


def check_schedule(schedule: Schedule) -> None:
    """alpha + sigma = 1, where the numbers are known."""
    if isinstance(schedule, type):
        raise ValueError(f"schedule must be an instance, got a class: write {schedule.__name__}()")
    if is_traced(schedule):
        return
    with jax.ensure_compile_time_eval():
        total = np.sum(schedule(jnp.linspace(0.0, 1.0, 9)), axis=0)
    if np.abs(total - 1).max() > 1e-4:
        raise ValueError(
            f"tokens stay with probability alpha and jump with sigma, so alpha + sigma must be 1; "
            f"{type(schedule).__name__} has {total[4]:g} at t = 0.5; use schedules.RectifiedFlow(), or Shifted of it"
        )


def check_tokens(x: Any, size: int | None = None) -> None:
    """int32, and in [0, size) where the values are known."""
    if x.dtype != jnp.int32:
        raise ValueError(f"tokens must be of dtype int32, got {x.dtype}; convert them once, when they are loaded")
    if size is None or is_traced(x) or not x.size:
        return
    values = np.asarray(x)  # known inside a trace too, where JAX would stage its minimum out
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= size:
        raise ValueError(
            f"tokens of the data must lie in [0, {size}), got {low} to {high}; a mask and other states that data "
            "cannot have come behind them"
        )


def check_observed(observed: Observed | None, size: int) -> None:
    """Known tokens are tokens of the data; what stands where nothing is known does not matter."""
    if observed is None:
        return
    mask, value = observed
    check_tokens(value)
    if not is_traced(observed):
        check_tokens(np.where(np.asarray(expand(mask, value)), np.asarray(value), np.int32(0)), size)
