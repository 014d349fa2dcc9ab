"""A solver for each part of nested data, one call of the joint denoiser a step:

x_s^i = solver_i.step(D^i, x_t^i, t -> s),    (D^1, D^2, ...) = denoise(x_t, t) for all parts at once.
"""

from typing import Any

import jax
from jaxtyping import Array, Float, Int

from jaxdiff.solvers.steps import real_steps
from jaxdiff.types import Data, Denoiser, Noise, pytree


def _is_solver(node: Any) -> bool:
    return hasattr(node, "step")


@pytree
class Each:
    """A pytree of solvers over the parts of a `Nested` process: `Each(parts={"x": DDIM(), "label": Ancestral()})`.

    Part i draws from the same source as in the process itself, so `Each` of `Ancestral` everywhere is `Ancestral`. The
    order is the lowest of the parts.

    Args:
        parts: solvers, in the structure of the process's parts.

    Raises:
        ValueError: no parts, or a part that is no solver with `one_call`: calls at other places would get the value of
            the first. In `init`, a process without parts, or with parts of another structure.
    """

    parts: Any
    one_call = True

    def __post_init__(self):
        if not self._parts:
            raise ValueError(f"parts must hold at least one solver, got {self.parts}")
        for part in self._parts:
            if isinstance(part, type) or not (_is_solver(part) and getattr(part, "one_call", False)):
                raise ValueError(
                    "Each needs solvers that call their denoiser once a step, at (x, t), and declare one_call = True, "
                    f"got {part!r}; solvers.DDIM(), solvers.DPMpp2M() and solvers.Ancestral() do"
                )

    @property
    def order(self) -> int:
        return min(part.order for part in self._parts)

    def nfe(self, grid: Float[Array, " N"]) -> Int[Array, ""]:
        return real_steps(grid)

    def init(self, process: Any, x: Data, grid: Float[Array, " N"]) -> Any:
        structure = jax.tree.structure(self.parts, is_leaf=_is_solver)
        if not hasattr(process, "parts"):
            raise ValueError(
                f"Each samples a Nested process, got {type(process).__name__}; give one process one solver"
            )
        if structure != process.structure:
            raise ValueError(
                f"the solvers must have the structure of the process's parts, {process.structure}, got {structure}"
            )
        rows = zip(self._parts, process.leaves(process.parts), process.leaves(x), strict=True)
        return process.join([solver.init(part, x, grid) for solver, part, x in rows])

    def step(
        self,
        keys: Noise,
        process: Any,
        denoise: Denoiser,
        x: Data,
        t: Float[Array, ""],
        s: Float[Array, ""],
        state: Any,
    ) -> tuple[Data, Any]:
        denoised = process.leaves(denoise(x, t), "denoised")
        # Bound now: a solver may call its denoiser at any place in its step.
        given = [lambda x, t, cond=None, x0=x0: x0 for x0 in denoised]
        leaves = [process.leaves(tree) for tree in (process.parts, x, state)]
        rows = zip(self._parts, process.sources(keys), given, *leaves, strict=True)
        moved = [solver.step(keys, part, given, x, t, s, state) for solver, keys, given, part, x, state in rows]
        return process.join([x for x, _ in moved]), process.join([state for _, state in moved])

    @property
    def _parts(self) -> list[Any]:
        return jax.tree.leaves(self.parts, is_leaf=_is_solver)
