"""Recipes by name: each module here with a function `recipe() -> Recipe` is one; its docstring says what to expect."""

import difflib
import importlib
import pkgutil

from experiments.errors import UserError
from experiments.recipe import Recipe


def names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def describe(name: str) -> str:
    """The first line of the recipe's docstring."""
    return (importlib.import_module(f"{__name__}.{name}").__doc__ or "").splitlines()[0]


def get(name: str) -> Recipe:
    """The recipe called `name`."""
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1)
        raise UserError(
            f"unknown recipe {name!r}; "
            + (f"did you mean {near[0]!r}? " if near else "")
            + f"The recipes are: {', '.join(names())} (python -m experiments.recipes describes them)"
        )
    return importlib.import_module(f"{__name__}.{name}").recipe()
