"""The options of a model or a scheduler, each looked at once: one that nothing here knows must not be set."""

from collections.abc import Mapping
from typing import Any

from experiments.errors import UserError

_NEEDED = object()


class Options:
    """The entries of a `config.json`; those that begin with `_` say where it came from and are left out."""

    def __init__(self, config: Mapping[str, Any]):
        self._left = {name: value for name, value in config.items() if not name.startswith("_")}

    def take(self, name: str, default: Any = _NEEDED) -> Any:
        """The value of an option, or `default` where the file is older than the option.

        Raises:
            UserError: it is not there and there is no default.
        """
        value = self._left.pop(name, default)
        if value is _NEEDED:
            raise UserError(f"config.json needs {name}, which is not there; add what the model was made with")
        return value

    def only(self, name: str, *allowed: Any) -> Any:
        """The value of an option, one of `allowed`, of which the first is the default.

        Raises:
            UserError: another value.
        """
        value = self.take(name, allowed[0])
        if value not in allowed:
            raise UserError(
                f"{name} must be {' or '.join(map(repr, allowed))}, got {value!r}: the networks have no such part; "
                "a model with it does not load"
            )
        return value

    def done(self) -> None:
        """To be called last.

        Raises:
            UserError: an option is left that is neither null nor false.
        """
        left = {name: value for name, value in self._left.items() if value is not None and value is not False}
        if left:
            raise UserError(
                f"unknown options {', '.join(f'{name} = {value!r}' for name, value in left.items())}: what they change "
                "is not known here; a model with them does not load"
            )
