"""What a network accepts: one place for the contract of `__call__`, so that every network refuses alike."""

from typing import Any

import jax
import jax.numpy as jnp


def check_inputs(
    x: Any, t: Any, cond: Any, s: Any, key: Any, *, shape: tuple[int, ...], num_classes: int, two_times: bool
) -> None:
    """Raise a ValueError unless x is (B, *shape), t and s are () or (B,), cond and key are (B,) and expected."""
    if x.ndim != len(shape) + 1 or x.shape[1:] != shape or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"x must be floating with shape (B, {', '.join(map(str, shape))}), got {x.dtype}{list(x.shape)}; "
            "pass a batch of examples of the shape the network was built with"
        )
    size = x.shape[0]
    _check_time("t", t, size)
    if s is not None:
        if not two_times:
            raise ValueError("s needs a network with a second time, this one has none; build it with two_times=True")
        _check_time("s", s, size)
    if cond is not None:
        if not num_classes:
            raise ValueError("cond needs a network with classes, this one is unconditional; build it with num_classes")
        if not jnp.issubdtype(jnp.result_type(cond), jnp.integer) or jnp.shape(cond) != (size,):
            raise ValueError(
                f"cond must be integer labels of shape ({size},) in [0, {num_classes}], where {num_classes} is the "
                f"null label, got {jnp.result_type(cond)}{list(jnp.shape(cond))}; pass one label per example or None"
            )
    if key is not None and (not jnp.issubdtype(key.dtype, jax.dtypes.prng_key) or key.shape != (size,)):
        raise ValueError(
            f"key must be typed keys of shape ({size},), one per example, got {key.dtype}{list(key.shape)}; "
            "use noise.sample_keys(jax.random.key(...), B)"
        )


def _check_time(name: str, t: Any, size: int) -> None:
    if jnp.shape(t) not in ((), (size,)) or not jnp.issubdtype(jnp.result_type(t), jnp.floating):
        raise ValueError(
            f"{name} must be a float time in [0, 1] of shape () or ({size},), got "
            f"{jnp.result_type(t)}{list(jnp.shape(t))}; divide step numbers by their count, drop other axes"
        )


def check_rate(rate: float | int) -> None:
    if not 0 <= rate < 1:
        raise ValueError(f"dropout must be a probability in [0, 1), got {rate}; use 0 for none")
