"""Our solvers against k-diffusion's samplers, run side by side in float64: same grid, same noise, every step compared.

k-diffusion works in sigma, with alpha = 1: that is the EDM schedule. Its `sample_dpm_2_ancestral`, `sample_dpm_fast`,
`sample_dpm_adaptive`, `sample_dpmpp_2s_ancestral` with noise and Euler's method with churn have no counterpart here.
"""

import jax
import numpy as np
import pytest
from parity import SHAPE, coupled, denoised, difference, draws, ours, torch

from benchmarks import peer_k_diffusion
from jaxdiff import schedules, solvers

sampling = peer_k_diffusion.load()

STEPS = 10
TO_NOISE = np.geomspace(60.0, 0.05, STEPS + 1)
TO_DATA = np.append(60.0 * (1 - np.arange(STEPS) / STEPS) ** 3, 0.0)
SEED = 1
DRAWN = {"noise_sampler": lambda *_: torch.randn(SHAPE, dtype=torch.float64)}  # instead of a Brownian tree

# name: (k-diffusion's sampler, its options, our solver)
DETERMINISTIC = {
    "euler": ("euler", {}, solvers.Euler()),
    "ddim": ("euler", {}, solvers.DDIM()),
    "heun": ("heun", {}, solvers.Heun()),
    "dpm 2": ("dpm_2", {}, solvers.DPMSolver2()),
    "lms 1": ("lms", {"order": 1}, solvers.LMS(order=1)),
    "lms 2": ("lms", {"order": 2}, solvers.LMS(order=2)),
    "lms 3": ("lms", {"order": 3}, solvers.LMS(order=3)),
    "lms 4": ("lms", {"order": 4}, solvers.LMS(order=4)),
    "dpm++ 2s": ("dpmpp_2s_ancestral", {"eta": 0.0}, solvers.DPMpp2S()),
    "dpm++ sde, eta 0": ("dpmpp_sde", {"eta": 0.0, **DRAWN}, solvers.DPMppSDE(eta=0.0)),
    "dpm++ 2m": ("dpmpp_2m", {}, solvers.DPMpp2M()),
    "dpm++ 2m, heun": (
        "dpmpp_2m_sde",
        {"eta": 0.0, "solver_type": "heun", **DRAWN},
        solvers.DPMpp2MSDE(eta=0.0, heun=True),
    ),
    "dpm++ 3m": ("dpmpp_3m_sde", {"eta": 0.0, **DRAWN}, solvers.DPMpp3MSDE(eta=0.0, published=True)),
}
STOCHASTIC = {
    "euler ancestral": ("euler_ancestral", {}, solvers.EulerAncestral()),
    "euler ancestral, eta 1/2": ("euler_ancestral", {"eta": 0.5}, solvers.EulerAncestral(eta=0.5)),
    "ddim, eta 1/2": ("euler_ancestral", {"eta": 0.5}, solvers.DDIM(eta=0.5)),
    "ancestral": ("euler_ancestral", {}, solvers.Ancestral()),
    "dpm++ 2m sde": ("dpmpp_2m_sde", DRAWN, solvers.DPMpp2MSDE()),
    "dpm++ 2m sde, eta 1/2": ("dpmpp_2m_sde", {"eta": 0.5, **DRAWN}, solvers.DPMpp2MSDE(eta=0.5)),
    "dpm++ 2m sde, heun": ("dpmpp_2m_sde", {"solver_type": "heun", **DRAWN}, solvers.DPMpp2MSDE(heun=True)),
    "dpm++ 3m sde": ("dpmpp_3m_sde", DRAWN, solvers.DPMpp3MSDE(published=True)),
    "dpm++ 3m sde, eta 1/2": ("dpmpp_3m_sde", {"eta": 0.5, **DRAWN}, solvers.DPMpp3MSDE(eta=0.5, published=True)),
}


def start(sigmas):
    return sigmas[0] * draws(0, 1, torch.float64)[0]


def theirs(name, options, sigmas):
    """x before every step of `sample_<name>`, and at the end; it draws its noise from SEED."""
    path, x = [], start(sigmas)
    model = lambda x, sigma: denoised(x, 1.0, sigma[:, None])
    torch.manual_seed(SEED)
    last = getattr(sampling, f"sample_{name}")(
        model, x, torch.tensor(sigmas), disable=True, callback=lambda step: path.append(step["x"]), **options
    )
    return torch.stack([*path, last])


def mine(solver, sigmas, noise=None):
    """Our path. The clock ends at twice the first sigma, so that churn may go up from there."""
    with jax.enable_x64(True):
        schedule = schedules.EDM(sigma_max=2 * sigmas[0])
        return ours(solver, schedule, sigmas / schedule.sigma_max, start(sigmas), noise)


@pytest.mark.parametrize("case", DETERMINISTIC)
def test_deterministic(case):
    name, options, solver = DETERMINISTIC[case]
    assert difference(mine(solver, TO_NOISE), theirs(name, options, TO_NOISE)) < 1e-9
    # The step to sigma = 0: ours return x0; of theirs `lms` alone extrapolates.
    keep = STEPS if name == "lms" else STEPS + 1
    assert difference(mine(solver, TO_DATA)[:keep], theirs(name, options, TO_DATA)[:keep]) < 1e-9


@pytest.mark.parametrize("case", STOCHASTIC)
def test_stochastic(case):
    name, options, solver = STOCHASTIC[case]
    noise = draws(SEED, STEPS, torch.float64)
    assert difference(mine(solver, TO_DATA, noise), theirs(name, options, TO_DATA)) < 1e-9


def test_dpmpp_sde():
    noise = coupled(TO_DATA, draws(SEED, 2 * STEPS, torch.float64).reshape(STEPS, 2, *SHAPE))
    assert difference(mine(solvers.DPMppSDE(), TO_DATA, noise), theirs("dpmpp_sde", DRAWN, TO_DATA)) < 1e-9


@pytest.mark.parametrize("churn", [2.0, 40.0])
def test_heun_with_churn(churn):
    """gamma = churn / steps, and sqrt(2) - 1 at most."""
    options = {"s_churn": churn, "s_tmin": 0.5, "s_tmax": 50.0, "s_noise": 1.003}
    solver = solvers.EDMStochastic(churn=churn, s_min=0.5, s_max=50.0, s_noise=1.003)
    path = mine(solver, TO_DATA, draws(SEED, STEPS, torch.float64))
    # k-diffusion tells x after the churn, not before: the ends are compared.
    assert difference(path[-1:], theirs("heun", options, TO_DATA)[-1:]) < 1e-9


def test_the_published_third_order_is_of_second():
    """k-diffusion, diffusers and the paper's code halve the parabola's second derivative, and so does `published`.

    The error then falls like steps^-2, however the history is started; with all of it like steps^-3.
    """
    even = lambda n: np.geomspace(3.0, 0.3, n + 1)
    # Padded, so that one compiled program serves every number of steps.
    padded = lambda n: np.append(even(n), np.full(1024 - n, 0.3))
    exact = mine(solvers.DPMpp3M(start=solvers.DPMpp2S()), padded(1024))[-1]

    def order(last):
        steps = np.array([64, 128, 256])
        errors = [np.sqrt(((np.asarray(last(n)) - exact) ** 2).mean()) for n in steps]
        return -np.polyfit(np.log(steps), np.log(errors), 1)[0]

    def order_of_ours(published):
        solver = solvers.DPMpp3M(start=solvers.DPMpp2S(), published=published)
        return order(lambda n: mine(solver, padded(n))[-1])

    assert abs(order(lambda n: theirs("dpmpp_3m_sde", {"eta": 0.0, **DRAWN}, even(n))[-1]) - 2) < 0.15
    assert abs(order_of_ours(published=True) - 2) < 0.15
    assert abs(order_of_ours(published=False) - 3) < 0.15
