"""diffusers' deterministic schedulers on a denoiser of ours, in every spacing that they offer."""

import functools
import itertools
import warnings
from collections.abc import Callable
from typing import Any

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks.peer_schedulers import Denoised, path
from benchmarks.subjects import process
from benchmarks.timing import repeated, spread
from jaxdiff import sample, solvers

X0 = {"prediction_type": "sample"}
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "DDIM": ("DDIMScheduler", {**X0, "clip_sample": False}),
    "Euler": ("EulerDiscreteScheduler", X0),
    "Heun": ("HeunDiscreteScheduler", X0),
    "KDPM2": ("KDPM2DiscreteScheduler", {}),
    "LMS": ("LMSDiscreteScheduler", X0),
    "PNDM": ("PNDMScheduler", {}),
    "PLMS": ("PNDMScheduler", {"skip_prk_steps": True}),
    "DPM++ 2M": ("DPMSolverMultistepScheduler", X0),
    "DPM++ 2M, heun": ("DPMSolverMultistepScheduler", {**X0, "solver_type": "heun"}),
    "DPM++ 3M": ("DPMSolverMultistepScheduler", {**X0, "solver_order": 3}),
    "DPM++ 2S": ("DPMSolverSinglestepScheduler", {**X0, "lower_order_final": True}),
    "DPM++ 3S": ("DPMSolverSinglestepScheduler", {**X0, "solver_order": 3, "lower_order_final": True}),
    "UniPC": ("UniPCMultistepScheduler", X0),
    "UniPC 3": ("UniPCMultistepScheduler", {**X0, "solver_order": 3}),
    "DEIS": ("DEISMultistepScheduler", X0),
    "DEIS 3": ("DEISMultistepScheduler", {**X0, "solver_order": 3}),
}
SPACINGS: dict[str, dict[str, Any]] = {
    "linspace": {"timestep_spacing": "linspace"},
    "leading": {"timestep_spacing": "leading"},
    "trailing": {"timestep_spacing": "trailing"},
    "karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
    "beta": {"use_beta_sigmas": True},
}
SAME: dict[str, tuple[str, dict[str, Any], Any]] = {
    "DDIM": ("DDIMScheduler", {**X0, "clip_sample": False, "timestep_spacing": "trailing"}, solvers.DDIM()),
    "DPM++ 2M": ("DPMSolverMultistepScheduler", X0, solvers.DPMpp2M(lower_final=True)),
    "DPM++ 3M": (
        "DPMSolverMultistepScheduler",
        {**X0, "solver_order": 3},
        solvers.DPMpp3M(published=True, lower_final=True),
    ),
    "UniPC": ("UniPCMultistepScheduler", X0, solvers.UniPC(lower_final=True)),
    "UniPC 3": ("UniPCMultistepScheduler", {**X0, "solver_order": 3}, solvers.UniPC(p=3, lower_final=True)),
}
"""The same method on both sides, ours set to fall in order at the end as theirs does."""


def made(kind: str, options: dict[str, Any], steps: int) -> Any:
    """A scheduler of so many steps; None where it does not have the option or does not work with it."""
    cls = getattr(diffusers, kind)
    if not set(options) <= set(cls.__init__.__wrapped__.__code__.co_varnames):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scheduler = cls(**options)
            scheduler.set_timesteps(steps)
    except (ValueError, IndexError, RuntimeError):
        return None
    return scheduler


def fitting(make: Callable[[int], Any], budget: int) -> Any:
    """The scheduler of the most steps that calls the network at most `budget` times; None where there is none."""
    steps, found = budget, make(budget)
    while found is None or len(found.timesteps) > budget:
        if steps <= max(1, budget // 2 - 1):
            return None
        # Calls grow about linearly with steps; a number of steps that does not work is left out.
        steps = min(steps - 1, steps if found is None else steps * budget // len(found.timesteps))
        found = make(steps)
    while steps < budget and (more := make(steps + 1)) is not None and len(more.timesteps) <= budget:
        steps, found = steps + 1, more
    return found


def asked(denoise: Any) -> Denoised:
    """Our denoiser on DDPM's table as one of PyTorch's tensors at any scale: x / sqrt(alpha^2 + sigma^2) is on it."""
    schedule = process().schedule
    inverse = jax.jit(lambda alpha, sigma: schedule.inverse(2 * (jnp.log(alpha) - jnp.log(sigma))))
    call = jax.jit(lambda x, alpha, sigma: denoise(x / jnp.sqrt(alpha**2 + sigma**2), inverse(alpha, sigma), None))

    def denoised(x: torch.Tensor, alpha: Any, sigma: Any) -> torch.Tensor:
        return torch.from_numpy(np.array(call(x.numpy(), np.float32(alpha), np.float32(sigma))))

    return denoised


def points(
    denoise: Any, x: np.ndarray, error: Callable[[Any], float], budgets: tuple[int, ...]
) -> list[dict[str, Any]]:
    """A point for each scheduler, spacing and budget, of the most steps that fit, from the noise x."""
    found, denoised = [], asked(denoise)
    for (name, (kind, options)), (spacing, more), budget in itertools.product(
        SCHEDULERS.items(), SPACINGS.items(), budgets
    ):
        scheduler = fitting(functools.partial(made, kind, {**options, **more}), budget)
        if scheduler is None:
            continue
        try:
            out = path(scheduler, denoised, torch.from_numpy(np.array(x)) * scheduler.init_noise_sigma)[-1]
        except (ValueError, IndexError):
            continue  # an order that so few steps do not carry
        found.append({"solver": name, "grid": spacing, "nfe": len(scheduler.timesteps), "error": error(out.numpy())})
    return found


def timed(denoise: Any, x: np.ndarray, points: list[dict[str, Any]], repeats: int) -> None:
    """Put the `seconds` of diffusers' points into them, warmed up."""
    denoised, start = asked(denoise), torch.from_numpy(np.array(x))
    for point in points:
        kind, options = SCHEDULERS[point["solver"]]
        scheduler = fitting(functools.partial(made, kind, options | SPACINGS[point["grid"]]), point["nfe"])

        def run(scheduler: Any = scheduler) -> torch.Tensor:
            scheduler.set_timesteps(scheduler.num_inference_steps)
            return path(scheduler, denoised, start * scheduler.init_noise_sigma)[-1]

        point["seconds"] = spread(repeated(run, repeats))["median"]


def pairs(denoise: Any, x: np.ndarray, steps: int = 10) -> dict[str, float]:
    """The largest difference of samples on the same grid, relative to the largest of them."""
    found, denoised = {}, asked(denoise)
    for name, (kind, options, solver) in SAME.items():
        scheduler = made(kind, options, steps)
        times = (np.asarray([*(float(k) for k in scheduler.timesteps), -1.0]) + 1) / 1000
        other = path(scheduler, denoised, torch.from_numpy(np.array(x)))[-1].numpy()
        key, grid = jax.random.key(0), jnp.asarray(times, jnp.float32)
        mine, _ = jax.jit(sample)(key, process(), denoise, solver, grid, x=jnp.asarray(x))
        found[name] = float(np.abs(np.asarray(mine) - other).max() / np.abs(other).max())
    return found
