"""The tensors of a file, each used once: what is missing, of another number of axes or left over is an error."""

from collections.abc import Mapping

import numpy as np

from experiments.errors import UserError


class Tensors:
    """float32 arrays by name."""

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        self._left = dict(arrays)

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def renamed(self, where: str, names: Mapping[str, str]) -> "Tensors":
        """The same arrays; in names that contain `where`, each key of `names` is replaced by its value."""

        def new(name: str) -> str:
            for old, replacement in names.items():
                name = name.replace(old, replacement) if where in name else name
            return name

        return Tensors({new(name): array for name, array in self._left.items()})

    def take(self, name: str, axes: int) -> np.ndarray:
        """The array `name`, which nothing else will take.

        Raises:
            UserError: it is not there, or has another number of axes.
        """
        if name not in self._left:
            raise UserError(f"the weights need a tensor {name}, which is not there; they are not of this config.json")
        array = self._left.pop(name)
        if array.ndim != axes:
            raise UserError(
                f"tensor {name} must have {axes} axes, got shape {array.shape}; the file is another model's"
            )
        return array

    def done(self) -> None:
        """To be called last.

        Raises:
            UserError: an array is left.
        """
        if self._left:
            first, count = next(iter(self._left)), len(self._left)
            raise UserError(
                f"{count} tensor{'s'[: count > 1]} left over, such as {first}: the network has no place for it; the "
                "weights are not of this config.json"
            )
