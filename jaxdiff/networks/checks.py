"""What a network accepts: one place for the contract of `__call__`, so that every network refuses alike."""

from typing import Any

import jax
import jax.numpy as jnp


def check_inputs(
    x: Any,
    t: Any,
    cond: Any,
    s: Any,
    key: Any,
    *,
    shape: tuple[int, ...],
    num_classes: int,
    two_times: bool,
    states: int = 0,
    features: int = 0,
    clocks: int = 0,
    clean: bool = False,
) -> None:
    """Raise a ValueError unless x is (B, *shape), t and s are () or (B,), cond and key are (B,) and expected.

    With `states` x is integer tokens, else floating; t may have one time for each place of the first `clocks` axes
    of `shape`; with `clean` cond is another x, with `features` so many numbers for each place.
    """
    if not _is_data(x, shape, states):
        raise ValueError(
            f"x must be {_kind(states)} with shape (B, {_list(shape)}), got {x.dtype}{list(x.shape)}; "
            "pass a batch of examples of the shape the network was built with"
        )
    size = x.shape[0]
    _check_time("t", t, size, shape[:clocks])
    if s is not None:
        if not two_times:
            raise ValueError("s needs a network with a second time, this one has none; build it with two_times=True")
        _check_time("s", s, size)
    if cond is not None and clean:
        if not hasattr(cond, "dtype") or not _is_data(cond, shape, states) or cond.shape[0] != size:
            raise ValueError(
                f"cond must be the clean sequences, {_kind(states)} with shape ({size}, {_list(shape)}), got "
                f"{jnp.result_type(cond)}{list(jnp.shape(cond))}; pass x0, or None if x is clean before its noisy block"
            )
    elif cond is not None and features:
        if not jnp.issubdtype(jnp.result_type(cond), jnp.floating) or jnp.shape(cond) != (size, shape[0], features):
            raise ValueError(
                f"cond must be floating features of shape ({size}, {shape[0]}, {features}), got "
                f"{jnp.result_type(cond)}{list(jnp.shape(cond))}; pass what is known of each place, or None for zeros"
            )
    elif cond is not None:
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


def _is_data(x: Any, shape: tuple[int, ...], states: int) -> bool:
    kind = jnp.integer if states else jnp.floating
    return x.ndim == len(shape) + 1 and x.shape[1:] == shape and bool(jnp.issubdtype(x.dtype, kind))


def _kind(states: int) -> str:
    return f"integer tokens in [0, {states})" if states else "floating"


def _list(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))


def _check_time(name: str, t: Any, size: int, places: tuple[int, ...] = ()) -> None:
    """A time for all, for each example, or for each place along the first axes of an example; 1 where it is shared."""
    shape, axes = jnp.shape(t), (size, *places)
    shared = [axis in (1, wanted) for axis, wanted in zip(shape, axes, strict=False)]
    fits = len(shape) <= len(axes) and all(shared) and (len(shape) != 1 or shape == (size,))
    if not fits or not jnp.issubdtype(jnp.result_type(t), jnp.floating):
        of_places = f", or a clock for each place, ({_list(axes)}) with 1 where it is shared" if places else ""
        raise ValueError(
            f"{name} must be a float time in [0, 1] of shape () or ({size},){of_places}, got "
            f"{jnp.result_type(t)}{list(shape)}; divide step numbers by their count, drop other axes"
        )


def check_rate(rate: float | int) -> None:
    if not 0 <= rate < 1:
        raise ValueError(f"dropout must be a probability in [0, 1), got {rate}; use 0 for none")
