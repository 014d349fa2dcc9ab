"""Shifted: a schedule whose log-SNR is lowered everywhere, for larger pictures (arXiv 2403.03206, eq. 23; 2301.11093).

Neighbouring pixels of a large picture say the same, so the same noise hides less of it. At `shift` times the width, the
noise scale sigma / alpha must be `shift` times as large to hide as much: log-SNR falls by 2 log(shift).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.types import Scalar, Schedule, Time, is_traced, pytree


@pytree
class Shifted:
    """sigma / alpha of the base times `shift`, in the scale of the base.

    (alpha, shift sigma) is divided by its own norm, and the norm is the one that the base keeps at 1:

        alpha^2 + sigma^2 = 1   stays variance-preserving
        alpha + sigma = 1       RectifiedFlow at t becomes RectifiedFlow at shift t / (1 + (shift - 1) t)
        alpha = 1               sigma is multiplied

    This is exact at both ends and needs no inverse; a warp of the base's time would leave [0, 1] wherever the base
    ends with some signal. Shifts compose: their factors are multiplied. A shift belongs into the schedule *or* into
    the grid: a grid in noise scales on a shifted schedule is not shifted again.

    Args:
        base: the schedule to shift.
        shift: ratio of widths, > 0: simple diffusion's is width / 64 (arXiv 2301.11093, sec. 3), Stable Diffusion 3
            uses 3 at 1024 pixels. Below 1 it shifts towards the data.

    Raises:
        ValueError: `shift` is not positive, or the base keeps none of the three norms.
    """

    base: Schedule
    shift: Scalar

    def __post_init__(self):
        if not is_traced(self.shift) and not self.shift > 0:
            raise ValueError(f"shift must be positive, got {self.shift}")
        if not is_traced(self.base):
            with jax.ensure_compile_time_eval():
                error = float(jnp.abs(_norms(*self.base(0.5)) - 1).min())
            if error > 1e-3:
                raise ValueError(
                    f"Shifted needs a base that keeps alpha^2 + sigma^2, alpha + sigma or alpha at 1, and "
                    f"{type(self.base).__name__} keeps none at t = 0.5 (off by {error:g}); rescale the base"
                )

    def __call__(self, t: Time) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        # Which norm the base keeps is asked of its values, so that its numbers may be traced.
        kept = jnp.argmin(jnp.abs(_norms(*self.base(0.5)) - 1))
        alpha, sigma = self.base(t)
        norm = _norms(alpha, self.shift * sigma)[kept]
        return alpha / norm, self.shift * sigma / norm

    def inverse(self, logsnr: Time) -> Float[Array, "..."]:
        """The time at which the base's log-SNR is `logsnr` + 2 log(shift)."""
        return self.base.inverse(jnp.asarray(logsnr) + 2 * jnp.log(self.shift))


def _norms(alpha: Float[Array, "..."], sigma: Float[Array, "..."]) -> Float[Array, "3 ..."]:
    return jnp.stack([alpha + sigma, jnp.sqrt(alpha**2 + sigma**2), alpha])
