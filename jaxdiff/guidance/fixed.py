"""A denoiser with its condition, and no guidance."""

from jaxtyping import Array, Float, Shaped

from jaxdiff.types import Condition, Denoiser, Time, as_pytree, per_sample, pytree


@pytree
class Conditioned:
    """The denoiser that `condition` makes."""

    denoise: Denoiser
    cond: Condition = per_sample()

    def __call__(self, x: Shaped[Array, "B ..."], t: Time, cond: Condition = None) -> Float[Array, "B ..."]:
        return self.denoise(x, t, self.cond)


def condition(denoise: Denoiser, cond: Condition) -> Conditioned:
    """Fix the condition of a denoiser without guidance: one evaluation a call."""
    return Conditioned(denoise=as_pytree(denoise), cond=cond)
