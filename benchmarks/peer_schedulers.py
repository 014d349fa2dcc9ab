"""diffusers' schedulers with any denoiser, call by call: what each expects of a network, and where it asks it.

A scheduler with a table of betas walks x_t itself; others walk x_t / alpha, or a flow's (1 - sigma) x0 + sigma eps. A
denoiser is `(x, alpha, sigma) -> E[x0 | x]` for x = alpha x0 + sigma eps, on tensors of PyTorch.
"""

from collections.abc import Callable
from typing import Any

import torch

Denoised = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def scales(scheduler: Any, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(alpha, sigma) of an entry of `scheduler.sigmas`."""
    if hasattr(scheduler, "_sigma_to_alpha_sigma_t"):
        return scheduler._sigma_to_alpha_sigma_t(sigma)
    return (1 - sigma if "Flow" in type(scheduler).__name__ else torch.ones(())), sigma


def at(scheduler: Any, i: int, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(alpha, sigma) where the i-th call evaluates the network."""
    kind = type(scheduler).__name__
    if kind == "IPNDMScheduler":
        return scheduler.alphas[i], scheduler.betas[i]
    if not hasattr(scheduler, "sigmas"):
        signal = scheduler.alphas_cumprod[t]
        return signal**0.5, (1 - signal) ** 0.5
    sigma: Any = scheduler.sigmas[i]
    if not getattr(scheduler, "state_in_first_order", True):  # the second call of a step
        if kind == "KDPM2DiscreteScheduler":
            sigma = scheduler.sigmas_interpol[i]
        if kind == "DPMSolverSDEScheduler":
            sigma = scheduler.mid_point_sigma
    return scales(scheduler, sigma)


def output(scheduler: Any, denoised: Denoised, x: torch.Tensor, alpha: Any, sigma: Any) -> torch.Tensor:
    """What the scheduler expects of a network with this denoiser."""
    x0 = denoised(x, alpha, sigma)
    eps = (x - alpha * x0) / sigma
    if hasattr(scheduler, "precondition_outputs"):
        skipped = scheduler.precondition_outputs(x, torch.zeros_like(x), sigma)
        return (x0 - skipped) / scheduler.precondition_outputs(torch.zeros(()), torch.ones(()), sigma)
    if "Flow" in type(scheduler).__name__:
        return eps - x0
    if type(scheduler).__name__ == "IPNDMScheduler":
        return alpha * eps - sigma * x0
    return {"sample": x0, "epsilon": eps}[scheduler.config.prediction_type]


def path(
    scheduler: Any, denoised: Denoised, x: torch.Tensor, keep: int | None = None, **options: Any
) -> list[torch.Tensor]:
    """x before every call of the network, and after the last.

    Args:
        x: where the scheduler starts, in its own scale.
        keep: how many calls, from the first; None for all.
        options: of the scheduler's `step`.
    """
    found = [x]
    for i, t in enumerate(scheduler.timesteps[:keep]):
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(x, t)  # expected before `step`; what our network is given is not scaled
        x = scheduler.step(output(scheduler, denoised, x, *at(scheduler, i, t)), t, x, **options).prev_sample
        found.append(x)
    return found
