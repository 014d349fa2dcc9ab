"""What the parity tests share: a denoiser for both libraries, our side of a run, and the measure of their difference.

The reference libraries are the extra `bench`, which the Makefile installs on Python 3.11 alone. There a missing package
is an error, so that CI cannot skip the comparisons.
"""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import Gaussian, sample

if sys.version_info[:2] == (3, 11):
    import diffusers
    import torch
else:
    pytest.skip("PyTorch and diffusers are installed on Python 3.11 alone", allow_module_level=True)

__all__ = ["SHAPE", "denoised", "difference", "diffusers", "draws", "ours", "torch"]

SHAPE = (4, 3)


def denoised(x, alpha, sigma):
    """E[x0 | x] where each element of x0 is drawn from N(1, 1/4) or N(-1, 1/4), for torch's arrays and for JAX's.

    Being exact, it is a function of x / alpha and sigma / alpha alone: runs in those coordinates are the same runs.
    """
    tanh = torch.tanh if isinstance(x, torch.Tensor) else jnp.tanh
    variance = 0.25 * alpha**2 + sigma**2
    return (sigma**2 * tanh(alpha * x / variance) + 0.25 * alpha * x) / variance


def draws(seed, count, dtype=None):
    """The normals that torch draws one after another from `seed`, shape (count, *SHAPE)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randn(SHAPE, generator=generator, dtype=dtype) for _ in range(count)])


def _denoise(schedule, x, t, cond=None):
    return denoised(x, *schedule(t))


# These tests compile much and compute little.
@functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
def _run(process, denoise, solver, grid, x, noise):
    return sample(jax.random.key(0), process, denoise, solver, grid, x=x, noise=noise, trajectory=True)[1].trajectory


def ours(solver, schedule, grid, x, noise=None):
    """x at every time of `grid`.

    Args:
        x: at grid[0]; torch's, like `noise`.
        noise: standard normals, shape (steps, *SHAPE), or (steps, draws, *SHAPE).
    """
    if noise is not None:
        noise = jnp.asarray(noise.reshape(len(grid) - 1, -1, *SHAPE).numpy())
    denoise = jax.tree_util.Partial(_denoise, schedule)
    return np.asarray(
        _run(Gaussian(schedule=schedule), denoise, solver, jnp.asarray(grid), jnp.asarray(x.numpy()), noise)
    )


def difference(ours, theirs):
    """The largest difference after a step relative to the largest element there; of all steps, the largest."""
    ours, theirs = (np.asarray(path).reshape(len(path), -1) for path in (ours, theirs))
    assert ours.shape == theirs.shape
    return float((np.abs(ours - theirs).max(1) / np.abs(theirs).max(1)).max())


def coupled(sigmas, noise):
    """`DPMppSDE`'s two draws of each step from a reference's, which are the noise up to the middle and over the whole.

    Ours are up to the middle and from there on: the whole step's noise is what is left of the first, and the second.

    Args:
        sigmas: the grid in sigma / alpha.
        noise: shape (steps, 2, *SHAPE).
    """
    noise = noise.clone().double()
    for z, t, s in zip(noise, sigmas[:-1], sigmas[1:], strict=True):
        if s > 0:
            middle = (t * s) ** 0.5
            std = lambda start, end: end * (1 - (end / start) ** 2) ** 0.5
            left = (s / middle) ** 2 * std(t, middle)
            z[1] = (std(t, s) * z[1] - left * z[0]) / std(middle, s)
    return noise
