"""The tasks of a run that was trained to restore pictures, and how its network is told what was measured."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.conditions import Conditions, center, enlarged
from jaxdiff.conditioning import operators

Operator = operators.Mask | operators.AveragePool


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """One measurement of pictures (N, H, W, C).

    Attributes:
        name: of the task.
        operator: A.
    """

    name: str
    operator: Any

    @property
    def hole(self) -> np.ndarray | None:
        """bool (H, W), True where pixels are unknown; None where none is known."""
        if not isinstance(self.operator, operators.Mask):
            return None
        return ~np.asarray(self.operator.mask)[0, :, :, 0]


def tasks_of(conditions: Conditions, shape: tuple[int, ...]) -> list[Task]:
    """Super-resolution by each factor, and the hole in the middle, as far as they were trained."""
    found = [Task(f"superres x{factor}", operators.AveragePool(factor=factor)) for factor in conditions.smaller]
    if conditions.holes:
        found.append(Task("inpaint the center", operators.Mask(mask=~center((shape[0], shape[1]))[None, :, :, None])))
    return found


def is_trained(conditions: Conditions, operator: Any) -> bool:
    """Whether a run with these conditions was trained for what the operator measures."""
    if isinstance(operator, operators.Mask):
        return bool(conditions.holes)
    return isinstance(operator, operators.AveragePool) and operator.factor in conditions.smaller


def told(operator: Operator, y: Any, shape: tuple[int, ...]) -> dict[str, Any]:
    """What was measured, as arguments of `Model.draw`: `cond` and `measured`, or `observed` for known pixels.

    Args:
        y: measured, float32 (N, h, w, C).
        shape: (H, W, C) of the pictures.
    """
    y = np.asarray(y, np.float32)
    if isinstance(operator, operators.Mask):
        mask = np.broadcast_to(np.asarray(operator.mask)[..., 0], (len(y), *shape[:2]))
        return {"cond": None, "observed": (mask, y)}
    large = np.asarray(enlarged(jnp.asarray(y), (shape[0], shape[1])))
    return {"cond": {"image": large}, "measured": (operator, y)}
