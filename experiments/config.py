"""Recipes as JSON and back: `config.json` re-creates the run's objects exactly.

A dataclass is written as its fields beside its public name, a function as its public name, an array as nested lists.
Only names inside `jaxdiff` and `experiments` are ever looked up.
"""

import dataclasses
import importlib
from typing import Any

import numpy as np

from experiments.errors import UserError

_TYPE, _FUNCTION, _ARRAY = "type", "function", "array"
_PACKAGES = ("jaxdiff", "experiments")


def encode(value: Any) -> Any:
    """`value` as plain JSON types."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
        return {_TYPE: _name(type(value)), **fields}
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    if hasattr(value, "dtype"):
        array = np.asarray(value)
        return {_ARRAY: array.tolist(), "dtype": str(array.dtype)} if array.ndim else array.item()
    if callable(value):
        return {_FUNCTION: _name(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a configuration holds dataclasses, functions, arrays and plain values, got {value!r}")


def decode(data: Any) -> Any:
    """The object that `encode` wrote; lists come back as tuples.

    Raises:
        UserError: a name or a field that this version does not know.
    """
    if isinstance(data, list):
        return tuple(decode(item) for item in data)
    if not isinstance(data, dict):
        return data
    if _ARRAY in data:
        return np.asarray(data[_ARRAY], data["dtype"])
    if _FUNCTION in data:
        return _find(data[_FUNCTION])
    cls: Any = _find(data[_TYPE])
    fields = {key: decode(value) for key, value in data.items() if key != _TYPE}
    known = {field.name for field in dataclasses.fields(cls)}
    if unknown := fields.keys() - known:
        raise UserError(
            f"{data[_TYPE]} has no field {', '.join(sorted(unknown))}; it has {', '.join(sorted(known))}. "
            "The configuration was written by another version: edit it or train anew"
        )
    return cls(**fields)


def differences(a: Any, b: Any, path: str = "") -> list[str]:
    """The fields in which two encoded configurations differ, as `path: a -> b`."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = list(dict.fromkeys((*a, *b)))
        return [line for key in keys for line in differences(a.get(key), b.get(key), f"{path}.{key}" if path else key)]
    return [] if a == b else [f"{path}: {a} -> {b}"]


def _name(thing: Any) -> str:
    """The shortest public path to a class or function: `jaxdiff.solvers.DDIM`, not the file that defines it."""
    module, name = thing.__module__, thing.__qualname__
    if module.split(".")[0] not in _PACKAGES:
        raise TypeError(
            f"{module}.{name} lies outside {' and '.join(_PACKAGES)}: a configuration could not find it again"
        )
    parts = module.split(".")
    for depth in range(2, len(parts)):
        parent = ".".join(parts[:depth])
        if getattr(importlib.import_module(parent), name, None) is thing:
            return f"{parent}.{name}"
    return f"{module}.{name}"


def _find(path: str) -> Any:
    module, _, name = path.rpartition(".")
    try:
        if module.split(".")[0] not in _PACKAGES:
            raise ImportError(path)
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"the configuration names {path!r}, which this version does not have; edit it or train anew"
        ) from error
