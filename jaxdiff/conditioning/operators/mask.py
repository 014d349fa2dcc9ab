"""Elements that are seen: A x = x where the mask is True, and 0 elsewhere. Inpainting, outpainting, imputation."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxdiff.conditioning.operators.protocol import scaled
from jaxdiff.types import Time, is_traced, per_sample, pytree


@pytree
class Mask:
    """A x keeps the shape of x, with zeros where nothing is seen; A A' = A.

    Args:
        mask: bool (1 or B, ...), True where an element is seen; axes of length 1 are shared, such as channels.

    Raises:
        ValueError: another dtype; a mask that sees everything or nothing, where its values are known.
    """

    mask: Bool[Array, "..."] = per_sample()

    def __post_init__(self):
        mask = jnp.asarray(self.mask)
        if mask.dtype != bool or mask.ndim < 2:
            raise ValueError(
                f"mask must be bool with a batch axis, True where an element is seen, got {mask.dtype}"
                f"{list(mask.shape)}; write mask[None] for one mask of all examples"
            )
        if not is_traced(mask) and (bool(mask.all()) or not bool(mask.any())):
            raise ValueError(
                f"a mask must see a part of the data, got one that sees {'all' if bool(mask.all()) else 'none'} of "
                f"its {mask.size} elements; there is nothing to "
                + ("fill in" if bool(mask.all()) else "go by: sample without a condition")
            )
        object.__setattr__(self, "mask", mask)

    def __call__(self, x: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
        self._check(x)
        return jnp.where(self.mask, x, 0.0)

    def adjoint(self, y: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
        return self(y)

    def solve(self, y: Float[Array, "B ..."], a: Time, b: Time) -> Float[Array, "B ..."]:
        return scaled(y, 1.0, a, b)

    def _check(self, x: Float[Array, "B ..."]) -> None:
        if self.mask.ndim != x.ndim or any(m not in (1, n) for m, n in zip(self.mask.shape, x.shape, strict=True)):
            raise ValueError(
                f"a mask of shape {self.mask.shape} does not fit data of shape {x.shape}; each axis is 1 or the data's"
            )
