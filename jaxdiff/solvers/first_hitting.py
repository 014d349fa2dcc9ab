"""First hitting: masked diffusion in continuous time, exactly, one call for each token (arXiv 2409.02908).

Given z_t, each of its n masks is still one at tau < t with probability sigma(tau) / sigma(t), and they go one at a
time: two at once have probability 0. So none of them has gone with probability (sigma(tau) / sigma(t))^n, and the next
goes at

    sigma(tau) = sigma(t) u^(1/n),    u uniform in (0, 1].

Each of the n is equally likely to be it, and it becomes a draw from p(x0 | z_tau). If tau is before s nothing happens
on the way to s, and as the law has no memory, the next step begins anew there.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Integer

from jaxdiff import noise
from jaxdiff.solvers.masks import mask_state
from jaxdiff.types import Denoiser, Noise, Process, pytree

_WHEN, _WHICH, _WHAT = 0, 1, 2  # the draws of an event


@pytree
class FirstHitting:
    """The law of infinitely many steps of `Ancestral` on masks; `denoise` gets a time for each sample, (B,).

    A sample takes as many calls as it has masks, and none where nothing happens. All samples are called for together,
    until the last has no event before s: on the grid [1, 0] that is at most one call for each token of a sequence,
    and with more times, which change nothing in the law, the sum of each interval's largest count. So use
    `grids.from_times([1.0, 0.0])`. `info.nfe` is what it was. Not reverse-differentiable.

    Known tokens, `process.denoiser(network, observed=...)`, cost a call each where x holds masks in their place; give
    `x` with them in it. Noise is typed keys, and what becomes of a sample depends on its own key alone.

    Raises:
        ValueError: in `init`, a process whose jumps do not all go to a mask; in `step`, supplied noise.
    """

    order = 1

    def nfe(self, grid: Float[Array, " N"]) -> Int[Array, ""]:
        raise ValueError("how often FirstHitting calls denoise depends on the samples: read it from sample's info.nfe")

    def calls(self, state: Int[Array, ""]) -> Int[Array, ""]:
        """Calls of `denoise` that led to this state."""
        return state

    def init(self, process: Process, x: Integer[Array, "B ..."], grid: Float[Array, " N"]) -> Int[Array, ""]:
        mask_state(process, self)
        return jnp.zeros((), jnp.int32)

    def step(
        self,
        keys: Noise,
        process: Process,
        denoise: Denoiser,
        x: Integer[Array, "B ..."],
        t: Float[Array, ""],
        s: Float[Array, ""],
        state: Int[Array, ""],
    ) -> tuple[Integer[Array, "B ..."], Int[Array, ""]]:
        if not noise.is_keys(keys):
            raise ValueError("FirstHitting draws as often as there are masks: pass keys, not an array of noise")
        mask, size = mask_state(process, self), x.shape[:1]
        sigma_t, sigma_s = process.schedule(t)[1], process.schedule(s)[1]
        masks = lambda x: (x == mask).reshape(x.shape[0], -1)

        def wait(i, x, sigma, going):
            """The noise at the i-th event, and whether it is before s; where it is not, that was the last look."""
            left = masks(x).sum(1)
            u = 1 - noise.uniform(noise.fold(keys, i), size, _WHEN)
            after = sigma * u.astype(sigma.dtype) ** (1 / jnp.maximum(left, 1))
            going = going & (left > 0) & (after > sigma_s)
            return jnp.where(going, after, sigma), going

        def event(carried):
            i, x, sigma, going = carried
            source, masked = noise.fold(keys, i), masks(x)
            # Rounding of the inverse must not leave the interval, nor reach the data, where masks have no law.
            tau = process.schedule.inverse(2 * (jnp.log1p(-sigma) - jnp.log(sigma)))
            tau = jnp.clip(tau, jnp.maximum(s, jnp.finfo(tau.dtype).tiny), t)
            log_probs = denoise(x, tau)
            left = masked.sum(1)
            chosen = jnp.minimum((noise.uniform(source, size, _WHICH) * left).astype(left.dtype), left - 1)
            here = masked & (jnp.cumsum(masked, 1) == chosen[:, None] + 1)
            flat = log_probs.reshape(*masked.shape, -1)
            law = jnp.take_along_axis(flat, here.argmax(1)[:, None, None], 1)[:, 0]
            value = noise.categorical(source, law, _WHAT)[:, None]
            x = jnp.where(here & going[:, None], value, x.reshape(masked.shape)).reshape(x.shape)
            return i + 1, x, *wait(i + 1, x, sigma, going)

        start = jnp.zeros((), jnp.int32)
        first = (start, x, *wait(start, x, jnp.broadcast_to(sigma_t, size), jnp.ones(size, bool)))
        events, x_s, *_ = jax.lax.while_loop(lambda carried: carried[-1].any(), event, first)
        return x_s, state + events
