"""Orders of convergence: each solver's error falls as it declares, on the exact denoiser of a mixture.

Measured on an interior interval (the step to sigma = 0 is of first order for everyone), in float64, against Runge-Kutta
with a thousand times the work. One compiled program for each solver serves three schedules and every number of steps.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conformance import COUNTS_ITSELF, FOR_CONSISTENCY, SMOOTH, SOLVERS, STOCHASTIC, OneOfSchedules, mixture

from jaxdiff import Gaussian, oracles, sample, schedules, solvers
from jaxdiff.solvers.steps import slope
from jaxdiff.types import pytree

STEPS, MOST = (256, 512, 1024), 1024
START, END = 0.7, 0.15
run = jax.jit(sample, compiler_options={"xla_backend_optimization_level": 0})

HAS_ORDER = [name for name in SOLVERS if name not in (*COUNTS_ITSELF, *FOR_CONSISTENCY)]
DETERMINISTIC = [name for name in HAS_ORDER if name not in STOCHASTIC]
AFFINE = [name for name in HAS_ORDER if name in STOCHASTIC and name not in ("restart", "predictor-corrector")]


@pytree
class RungeKutta:
    """The classical method of fourth order in eight substeps: starts multistep methods without an error that counts."""

    order = 4

    def nfe(self, grid):
        return 32 * (grid[1:] != grid[:-1]).sum()

    def init(self, process, x, grid):
        return ()

    def step(self, keys, process, denoise, x, t, s, state):
        h = (s - t) / 8
        f = lambda x, t: slope(process, x, denoise(x, t), t)

        def substep(i, x):
            u = t + i * h
            a = f(x, u)
            b = f(x + h / 2 * a, u + h / 2)
            c = f(x + h / 2 * b, u + h / 2)
            return x + h / 6 * (a + 2 * b + 2 * c + f(x + h * c, u + h))

        return jax.lax.fori_loop(0, 8, substep, x), state


def padded(steps):
    times = jnp.linspace(START, END, steps + 1)
    return jnp.concatenate([times, jnp.full(MOST - steps, END)])


def fitted(errors, steps):
    return -np.polyfit(np.log(steps), np.log(errors), 1)[0]


def orders(solver):
    """The measured order on each smooth schedule."""
    found = {}
    x = 0.8 * jax.random.normal(jax.random.key(0), (64, 2))
    for i, name in enumerate(SMOOTH):
        schedule = OneOfSchedules(which=jnp.asarray(i), names=SMOOTH)
        process, denoise = Gaussian(schedule=schedule), mixture().denoiser(schedule)
        solve = lambda solver, steps: run(jax.random.key(0), process, denoise, solver, padded(steps), x=x)[0]
        exact = solve(RungeKutta(), MOST)
        errors = [float(jnp.sqrt(((solve(solver, steps) - exact) ** 2).mean())) for steps in STEPS]
        found[name] = fitted(errors, STEPS)
    return found


def seeded(solver):
    """With a history good enough for its order, from a one-step method."""
    return dataclasses.replace(solver, start=RungeKutta()) if hasattr(solver, "start") else solver


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_order_of_convergence(name):
    with jax.enable_x64(True):
        solver = seeded(SOLVERS[name])
        for schedule, order in orders(solver).items():
            assert abs(order - solver.order) < 0.15, (schedule, order)


def test_a_first_order_start_caps_a_third_order_method():
    """What the seed is for: DDIM's first step alone leaves an error of second order, however good the rest is."""
    with jax.enable_x64(True):
        caps = orders(solvers.DPMpp3M())
    assert caps["cosine"] < 2.6 and caps["rectified flow"] < 2.6, caps


def test_the_published_third_order_method_is_of_second_order():
    """Its parabola has half its curvature (DPM-Solver's code, diffusers, k-diffusion); `published` reproduces that."""
    with jax.enable_x64(True):
        found = orders(solvers.DPMpp3M(published=True, start=RungeKutta()))
    assert all(order < 2.5 for order in found.values()), found


ENDS = {  # start and end of a step of length h
    "from noise alone": lambda h: (1.0, 1.0 - h),
    "backwards to noise alone": lambda h: (1.0 - h, 1.0),
    "backwards from data": lambda h: (0.0, h),
}


@pytest.mark.parametrize("solver", [solvers.DPMpp2S(), solvers.DPMSolver2(), solvers.DPMpp3S()], ids=["2s", "2", "3s"])
@pytest.mark.parametrize("name", ENDS)
def test_singlestep_orders_hold_where_log_alpha_over_sigma_is_infinite(name, solver):
    """One step from alpha = 0, to it, or from sigma = 0: its error is of one order more than the solver's, at least."""
    lengths = (0.04, 0.02, 0.01)
    with jax.enable_x64(True):
        process, denoise = Gaussian(schedule=schedules.Cosine()), mixture().denoiser(schedules.Cosine())
        x = 0.8 * jax.random.normal(jax.random.key(0), (64, 2))
        solve = lambda solver, times: run(jax.random.key(0), process, denoise, solver, times, x=x)[0]
        errors = []
        for length in lengths:
            exact = solve(RungeKutta(), jnp.linspace(*ENDS[name](length), 17))
            found = solve(solver, jnp.array(ENDS[name](length)))
            errors.append(float(jnp.sqrt(((found - exact) ** 2).mean())))
    order = -fitted(errors, lengths)
    assert order > solver.order + 1 - 0.15, (order, errors)


def moments_after(solver, process, denoise, mean, variance, steps, most):
    """Mean and variance after `steps`, without sampling: on Gaussian data a step is affine in x and in each draw.

    One sample of the batch carries the constant, one the slope in x, and one each draw.
    """
    draws = 2
    size = 2 + most * draws
    x = jnp.zeros((size, len(mean))).at[1].set(1.0)
    noise = jnp.zeros((most * draws, size, len(mean)))
    noise = noise.at[jnp.arange(most * draws), 2 + jnp.arange(most * draws)].set(1.0)
    times = jnp.linspace(START, END, steps + 1)
    grid = jnp.concatenate([times, jnp.full(most - steps, END)])
    noise = noise.reshape(most, draws, size, len(mean))
    out = np.asarray(run(jax.random.key(0), process, denoise, solver, grid, x=x, noise=noise)[0])
    slopes = out[1:] - out[0]
    return out[0] + slopes[0] * mean, slopes[0] ** 2 * variance + (slopes[1:] ** 2).sum(0)


@pytest.mark.parametrize("name", AFFINE)
def test_weak_order(name):
    """Mean and variance of the samples of a Gaussian converge at the declared order."""
    # The third-order drift of 3M SDE hides what its noise leaves, which is of second order, until steps are small.
    steps = (256, 512, 1024) if name == "dpm++ 3m sde" else (64, 128, 256)
    law = oracles.GaussianMixture(
        weights=np.ones(1), means=np.array([[0.7, -1.2]]), covariances=np.array([np.diag([0.4, 1.5])])
    )
    with jax.enable_x64(True):
        for i, schedule_name in enumerate(SMOOTH):
            schedule = OneOfSchedules(which=jnp.asarray(i), names=SMOOTH)
            process, denoise = Gaussian(schedule=schedule), law.denoiser(schedule)
            ends = []
            for t in (START, END):
                alpha, sigma = (float(a) for a in schedule(jnp.asarray(t)))
                ends.append((alpha * np.array([0.7, -1.2]), alpha**2 * np.array([0.4, 1.5]) + sigma**2))
            errors = []
            for n in steps:
                mean, variance = moments_after(SOLVERS[name], process, denoise, *ends[0], n, steps[-1])
                errors.append(np.sqrt(((mean - ends[1][0]) ** 2).sum() + ((variance - ends[1][1]) ** 2).sum()))
            order = fitted(errors, steps)
            assert abs(order - SOLVERS[name].order) < 0.15, (schedule_name, order, errors)
