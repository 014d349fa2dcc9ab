"""A run of one of diffusers' schedulers, call by call, with the denoiser of `parity`.

A scheduler with a table of betas is `FromBetas`, entry k at t = (k + 1) / K; one whose x is x_t / alpha is `EDM`, whose
time is sigma / alpha; one for flow matching is `RectifiedFlow`.
"""

from typing import Any, NamedTuple

import numpy as np
from parity import denoised, diffusers, torch

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


def scales(scheduler, sigma):
    """(alpha, sigma) of an entry of `scheduler.sigmas`."""
    if hasattr(scheduler, "_sigma_to_alpha_sigma_t"):
        return scheduler._sigma_to_alpha_sigma_t(sigma)
    return (1 - sigma if "Flow" in type(scheduler).__name__ else torch.ones(())), sigma


def at(scheduler, i, t):
    """(alpha, sigma) where the reference's i-th call evaluates the network."""
    if isinstance(scheduler, diffusers.IPNDMScheduler):
        return scheduler.alphas[i], scheduler.betas[i]
    if not hasattr(scheduler, "sigmas"):
        signal = scheduler.alphas_cumprod[t]
        return signal**0.5, (1 - signal) ** 0.5
    sigma = scheduler.sigmas[i]
    if not getattr(scheduler, "state_in_first_order", True):  # the second call of a step
        if isinstance(scheduler, diffusers.KDPM2DiscreteScheduler):
            sigma = scheduler.sigmas_interpol[i]
        if isinstance(scheduler, diffusers.DPMSolverSDEScheduler):
            sigma = scheduler.mid_point_sigma
    return scales(scheduler, sigma)


def output(scheduler, x, alpha, sigma):
    """What the scheduler expects of a network whose denoised value is `denoised`."""
    x0 = denoised(x, alpha, sigma)
    eps = (x - alpha * x0) / sigma
    if hasattr(scheduler, "precondition_outputs"):
        skipped = scheduler.precondition_outputs(x, torch.zeros_like(x), sigma)
        return (x0 - skipped) / scheduler.precondition_outputs(torch.zeros(()), torch.ones(()), sigma)
    if "Flow" in type(scheduler).__name__:
        return eps - x0
    if isinstance(scheduler, diffusers.IPNDMScheduler):
        return alpha * eps - sigma * x0
    return {"sample": x0, "epsilon": eps}[scheduler.config.prediction_type]


def theirs(scheduler, x, options=(), keep=None):
    """x before every call of `step`, and after the last."""
    path, options = [x], dict(options)
    if "generator" in options:
        options["generator"] = torch.Generator().manual_seed(SEED)
    for i, t in enumerate(scheduler.timesteps[:keep]):
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(x, t)  # expected before `step`; what our network is given is not scaled
        x = scheduler.step(output(scheduler, x, *at(scheduler, i, t)), t, x, **options).prev_sample
        path.append(x)
    return torch.stack(path)


def entry(k):
    """The time of entry k of the table."""
    return (np.asarray(k, np.float32) + 1) / np.float32(ENTRIES)


def table(scheduler):
    return schedules.FromBetas(betas=scheduler.betas.numpy())
