"""Editing a picture with a model that knows its kind: how far towards noise it goes, and the grid that leads there.

    SDEdit      x_t = alpha x0 + sigma eps, then t -> 0    sample(..., below(grid, t), x0=picture)
    inversion   0 -> t by a deterministic solver           sample(..., below(grid, t)[::-1], x=picture)
                then t -> 0 under another condition        sample(..., below(grid, t), x=inverted)

(arXiv 2108.01073; 2010.02502, sec. 4.3.) With a mask it is SDEdit by `RePaint(inner, mask, picture)`: what the mask
knows comes back bit for bit.

t = 0 leaves the picture as it is, t = 1 forgets it where alpha(1) = 0. SDEdit with `solvers.Ancestral` draws from
p(x0 | x_t), the law of the SDE; solvers of the ODE carry x_t along the flow instead, whose law given the picture is
another one and keeps more of it. Inversion and sampling undo each other up to the solver's order.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.types import Scalar, is_traced


def below(grid: Float[Array, " N"], t: Scalar) -> Float[Array, " N"]:
    """The part of a grid below t, and t itself: min(grid, t), of the same length.

    Equal neighbours in front are steps that do nothing and cost nothing, so that one compilation serves every t.

    Args:
        grid: times, decreasing from 1 to 0.
        t: in [0, 1], the strength of an edit; may be traced.

    Raises:
        ValueError: t outside [0, 1].
    """
    if not is_traced(t) and not 0 <= float(t) <= 1:
        raise ValueError(f"an edit goes to a time in [0, 1], 0 = the picture and 1 = noise, got {float(t):g}")
    return jnp.minimum(grid, jnp.asarray(t, grid.dtype))
