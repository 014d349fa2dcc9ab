"""Autoguidance: away from a worse version of the same network, rather than from no condition (arXiv 2406.02507)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from jaxdiff.guidance.protocol import Rule, active
from jaxdiff.types import Condition, Denoiser, Time, as_pytree, per_sample, pytree


@pytree
class Autoguided:
    """The denoiser that `autoguidance` makes."""

    denoise: Denoiser
    bad: Denoiser
    rule: Rule
    cond: Condition = per_sample()

    def __call__(self, x: Shaped[Array, "B ..."], t: Time, cond: Condition = None) -> Float[Array, "B ..."]:
        cond = self.cond if cond is None else cond
        good, needed = self.denoise(x, t, cond), active(self.rule, t)
        worse = lambda: self.bad(x, t, cond).astype(good.dtype)
        skips = needed is not True and not jnp.ndim(needed)
        return self.rule(x, t, good, jax.lax.cond(needed, worse, lambda: good) if skips else worse())


def autoguidance(denoise: Denoiser, bad: Denoiser, rule: Rule, cond: Condition = None) -> Autoguided:
    """D_bad + scale (D - D_bad), for `rule = guidance.scale(scale=...)` (arXiv 2406.02507, sec. 4).

    The bad denoiser should fail in the same way and more: a smaller or less trained network on the same data. With two
    exact denoisers there is nothing to correct, and every scale gives the same.

    Args:
        denoise: `(x, t, cond) -> x0`.
        bad: the worse denoiser, same signature.
        rule: `(x, t, c, u) -> x0` with c from `denoise` and u from `bad`: any rule of classifier-free guidance. Outside
            its interval `bad` is not evaluated.
        cond: the condition of both, with leading batch axis. One that the caller of the denoiser passes replaces it, so
            `classifier_free(autoguidance(...), ...)` guides both.

    Returns:
        A denoiser that makes two calls, one of each.
    """
    return Autoguided(denoise=as_pytree(denoise), bad=as_pytree(bad), rule=as_pytree(rule), cond=cond)
