"""A run of one of diffusers' schedulers, call by call, with the denoiser of `parity`.

A scheduler with a table of betas is `FromBetas`, entry k at t = (k + 1) / K; one whose x is x_t / alpha is `EDM`, whose
time is sigma / alpha; one for flow matching is `RectifiedFlow`.
"""

from typing import Any, NamedTuple

import numpy as np
from parity import denoised, diffusers, torch

from benchmarks.peer_schedulers import path
from jaxdiff import schedules

STEPS, SEED = 10, 1
ENTRIES = 1000  # of every table of betas


class Case(NamedTuple):
    """One comparison.

    Args:
        scheduler: the name of diffusers' class, without "Scheduler".
        config: what makes it.
        solver: ours.
        options: pairs for its `step`; a generator is replaced by one that draws `draws(SEED, ...)`.
        calls: of `step` in each step of ours.
        keep: how many of its calls are compared, from the first; None for all.
        last: entry of the table at which it ends; -1 is the data.
        bound: on the relative difference.
    """

    scheduler: str
    config: dict[str, Any]
    solver: Any
    options: Any = ()
    calls: int = 1
    keep: int | None = None
    last: int = -1
    bound: float = 1e-5

    def make(self, steps=STEPS):
        scheduler = getattr(diffusers, f"{self.scheduler}Scheduler")(**self.config)
        scheduler.set_timesteps(steps)
        return scheduler


def theirs(scheduler, x, options=(), keep=None):
    """x before every call of `step`, and after the last."""
    options = dict(options)
    if "generator" in options:
        options["generator"] = torch.Generator().manual_seed(SEED)
    return torch.stack(path(scheduler, denoised, x, keep, **options))


def entry(k):
    """The time of entry k of the table."""
    return (np.asarray(k, np.float32) + 1) / np.float32(ENTRIES)


def table(scheduler):
    return schedules.FromBetas(betas=scheduler.betas.numpy())
