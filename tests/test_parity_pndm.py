"""PNDM against diffusers' schedulers, in float32. How the reference starts is no part of ours: it is written here."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from parity import difference, diffusers, draws, ours, torch
from parity_diffusers import STEPS, entry, table, theirs

from jaxdiff import schedules, solvers
from jaxdiff.solvers.steps import carry_noise, noise_in
from jaxdiff.types import pytree


@pytree
class RungeKutta:
    """PNDM's start, diffusers' "prk": Runge-Kutta's four noises, carried by DDIM's steps (arXiv 2202.09778, eq. 13)."""

    order = 2

    def nfe(self, grid):
        return 4 * jnp.sum(grid[1:] != grid[:-1])

    def init(self, process, x, grid):
        return ()

    def step(self, keys, process, denoise, x, t, s, state):
        move = lambda eps, u: carry_noise(x, eps, process.schedule(t), process.schedule(u))
        noise = lambda x, u: noise_in(x, denoise(x, u), *process.schedule(u))
        middle = (t + s) / 2
        first = noise(x, t)
        second = noise(move(first, middle), middle)
        third = noise(move(second, middle), middle)
        fourth = noise(move(third, s), s)
        return move((first + 2 * second + 2 * third + fourth) / 6, s), state


@pytree
class Trapezoid:
    """PNDM whose first step is the trapezoidal rule: how diffusers starts it with `skip_prk_steps`."""

    inner: Any = solvers.PNDM()
    order = 2

    def nfe(self, grid):
        return self.inner.nfe(grid) + 1

    def init(self, process, x, grid):
        return self.inner.init(process, x, grid)

    def step(self, keys, process, denoise, x, t, s, state):
        x_s, after = self.inner.step(keys, process, denoise, x, t, s, state)
        at, to = process.schedule(t), process.schedule(s)
        mean = (after.values[0] + noise_in(x_s, denoise(x_s, s), *to)) / 2
        return jnp.where(state.taken == 0, carry_noise(x, mean, at, to), x_s), after


@pytest.mark.parametrize("start", ["runge-kutta", "trapezoid"])
def test_pndm(start):
    """Its last call, at the table's first entry, stays there: all but that."""
    scheduler = diffusers.PNDMScheduler(skip_prk_steps=start == "trapezoid")
    scheduler.set_timesteps(STEPS)
    x = draws(0, 1)[0]
    path = theirs(scheduler, x)[:-1]
    if start == "trapezoid":
        solver, path = Trapezoid(), torch.cat([path[:1], path[2:]])
    else:
        solver, path = solvers.PNDM(start=RungeKutta()), torch.cat([path[:12:4], path[12:]])
    grid = entry(np.arange(900, -1, -100))
    assert difference(ours(solver, table(scheduler), grid, x), path) < 2e-5


def test_ipndm():
    """Its "betas" are sigma, here the cosine schedule's. In the step to the data ours return x0: all but that step."""
    grid, x = np.linspace(0.97, 0, STEPS + 1, dtype=np.float32), draws(0, 1)[0]
    scheduler = diffusers.IPNDMScheduler(trained_betas=np.sin(np.pi / 2 * grid.astype(float)).tolist())
    scheduler.set_timesteps(STEPS)
    path = theirs(scheduler, x, keep=STEPS - 1)
    assert difference(ours(solvers.PNDM(), schedules.Cosine(), grid[:-1], x), path) < 2e-5
