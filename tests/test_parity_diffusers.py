"""Our solvers against diffusers' schedulers, run side by side in float32: same grid, same noise, every step compared.

How orders fall in the last steps is the reference's choice, to which ours are set. Steps that do not compare are named
where they are left out. KDPM2 with noise and SA-Solver have no counterpart here.
"""

import pytest
from parity import SHAPE, coupled, difference, diffusers, draws, ours, torch
from parity_diffusers import SEED, STEPS, Case, entry, table, theirs

from benchmarks.peer_schedulers import scales
from jaxdiff import schedules, solvers

pytestmark = [
    # diffusers calls NumPy on torch's arrays, which do not follow NumPy 2's protocols yet.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept context:DeprecationWarning"),
    # DPM-Solver without ++ is what `DPMSolver2` is compared with.
    pytest.mark.filterwarnings("ignore:.*algorithm_type `dpmsolver` is deprecated:FutureWarning"),
]


X0 = {"prediction_type": "sample"}
FREE = {**X0, "clip_sample": False}
DRAWN = {"generator": None}
SDE = {**X0, "algorithm_type": "sde-dpmsolver++"}
FALLING = {"lower_final": True}


def unipc(p, bh1):
    # Without falling orders, and always with bh1, its step to sigma = 0 is NaN: all but that step.
    falls = not bh1
    config = {**X0, "solver_order": p, "solver_type": "bh1" if bh1 else "bh2", "lower_order_final": falls}
    solver = solvers.UniPC(p=p, bh1=bh1, lower_final=falls)
    return Case("UniPCMultistep", config, solver, keep=None if falls else STEPS - 1, bound=2e-5 if p > 1 else 1e-5)


def deis(order, falls):
    config = {**X0, "solver_order": order, "lower_order_final": falls}
    # It ends in the table's first entry.
    solver = solvers.DEIS(order=order, lower_final=falls)
    return Case("DEISMultistep", config, solver, last=0, bound=2e-5 if order > 2 else 1e-5)


TABLE = {
    "ddpm": Case("DDPM", FREE, solvers.Ancestral(), DRAWN),
    "ddpm, eps": Case("DDPM", {"clip_sample": False}, solvers.Ancestral(), DRAWN),
    "ddim": Case("DDIM", {**FREE, "timestep_spacing": "trailing"}, solvers.DDIM()),
    "ddim, eta 1/2": Case("DDIM", FREE, solvers.DDIM(eta=0.5), {"eta": 0.5, **DRAWN}),
    "ddim, eta 1": Case("DDIM", FREE, solvers.Ancestral(), {"eta": 1.0, **DRAWN}),
    "dpm++ 1": Case("DPMSolverMultistep", {**X0, "solver_order": 1}, solvers.DDIM()),
    "dpm++ 2m": Case("DPMSolverMultistep", X0, solvers.DPMpp2M(**FALLING)),
    "dpm++ 2m, heun": Case("DPMSolverMultistep", {**X0, "solver_type": "heun"}, solvers.DPMpp2MSDE(eta=0.0, heun=True)),
    "dpm++ 3m": Case(
        "DPMSolverMultistep", {**X0, "solver_order": 3}, solvers.DPMpp3M(published=True, **FALLING), bound=2e-5
    ),
    "dpm++ 3m to the end": Case(
        "DPMSolverMultistep",
        {**X0, "solver_order": 3, "lower_order_final": False},
        solvers.DPMpp3M(published=True),
        bound=2e-5,
    ),
    "dpm++ 1 sde": Case("DPMSolverMultistep", {**SDE, "solver_order": 1}, solvers.Ancestral(), DRAWN),
    "dpm++ 2m sde": Case("DPMSolverMultistep", SDE, solvers.DPMpp2MSDE(), DRAWN),
    "dpm++ 2m sde, heun": Case(
        "DPMSolverMultistep", {**SDE, "solver_type": "heun"}, solvers.DPMpp2MSDE(heun=True), DRAWN
    ),
    **{f"unipc {p}, bh{2 - bh1}": unipc(p, bh1) for p in (1, 2, 3) for bh1 in (False, True)},
    **{
        f"deis {order}, {'falling' if falls else 'constant'}": deis(order, falls)
        for order in (1, 2, 3)
        for falls in (False, True)
    },
    # The scalings that make a network a consistency function belong to the network: switched off.
    "lcm": Case("LCM", {**FREE, "timestep_scaling": 1e6}, solvers.LCM(), DRAWN),
    # TCD rounds (1 - eta) k down: our (1 - gamma) t where that lies on the table, as here. Its last step ends in the
    # table's first entry, without noise: all but that step.
    "tcd": Case("TCD", FREE, solvers.LCM(gamma=0.3), DRAWN, keep=STEPS - 1),
    "tcd, eta 1/2": Case("TCD", FREE, solvers.LCM(gamma=0.5), {"eta": 0.5, **DRAWN}, keep=STEPS - 1),
    "tcd, eta 0": Case("TCD", FREE, solvers.LCM(gamma=0.0), {"eta": 0.0}, keep=STEPS - 1),
}

KARRAS = {"use_karras_sigmas": True}
# Singlestep schedulers use the points of their grid as points inside a step: on one even in log sigma, two of their
# steps are one of ours, or three of order 3. One step more than a multiple of that goes to the data.
SINGLE = {**X0, "use_exponential_sigmas": True, "lower_order_final": True}
OLD = {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}

IN_SIGMA = {
    "euler": Case("EulerDiscrete", {**X0, **KARRAS}, solvers.Euler()),
    "euler, eps": Case("EulerDiscrete", {}, solvers.Euler()),
    "euler ancestral": Case("EulerAncestralDiscrete", {}, solvers.EulerAncestral(), DRAWN),
    "heun": Case("HeunDiscrete", {**X0, **KARRAS}, solvers.Heun(), calls=2),
    "kdpm2": Case("KDPM2Discrete", KARRAS, solvers.DPMSolver2(), calls=2),
    # Ours return x0 in the step to sigma = 0, theirs extrapolates: all but that step.
    **{f"lms {k}": Case("LMSDiscrete", X0, solvers.LMS(order=k), {"order": k}, keep=STEPS - 1) for k in (1, 2, 3, 4)},
    "edm euler": Case("EDMEuler", {}, solvers.Euler()),
    "edm dpm++ 1": Case("EDMDPMSolverMultistep", {"solver_order": 1}, solvers.DDIM()),
    "edm dpm++ 2m": Case("EDMDPMSolverMultistep", {}, solvers.DPMpp2M(**FALLING)),
    "edm dpm++ 3m": Case(
        "EDMDPMSolverMultistep", {"solver_order": 3}, solvers.DPMpp3M(published=True, **FALLING), bound=2e-5
    ),
    "edm dpm++ 2m sde": Case(
        "EDMDPMSolverMultistep", {"algorithm_type": "sde-dpmsolver++"}, solvers.DPMpp2MSDE(), DRAWN
    ),
    "dpm++ 1s": Case("DPMSolverSinglestep", {**SINGLE, "solver_order": 1}, solvers.DDIM()),
    "dpm++ 2s": Case("DPMSolverSinglestep", SINGLE, solvers.DPMpp2S(), calls=2),
    "dpm++ 3s": Case(
        "DPMSolverSinglestep",
        {**SINGLE, "solver_order": 3, "solver_type": "heun"},
        solvers.DPMpp3S(),
        calls=3,
    ),
    "dpm++ 2s sde": Case("DPMSolverSinglestep", {**SINGLE, **SDE}, solvers.DPMppSDE(), DRAWN, calls=2),
    "dpm-solver 2": Case("DPMSolverSinglestep", {**SINGLE, **OLD}, solvers.DPMSolver2(), calls=2, keep=8),
    "dpm++ sde": Case("DPMSolverSDE", {}, solvers.DPMppSDE(), calls=2),
}
FLOW = {
    "euler": Case("FlowMatchEulerDiscrete", {"shift": 3.0}, solvers.Euler()),
    "euler, stochastic": Case("FlowMatchEulerDiscrete", {"stochastic_sampling": True}, solvers.LCM(), DRAWN),
    "heun": Case("FlowMatchHeunDiscrete", {"shift": 3.0}, solvers.Heun(), calls=2),
    "lcm": Case("FlowMatchLCM", {"shift": 3.0}, solvers.LCM(), DRAWN),
}


@pytest.mark.parametrize("name", TABLE)
def test_with_a_table_of_betas(name):
    case, x = TABLE[name], draws(0, 1)[0]
    scheduler = case.make()
    path = theirs(scheduler, x, case.options, case.keep)
    grid = entry([*scheduler.timesteps, case.last])[: len(path)]
    mine = ours(case.solver, table(scheduler), grid, x, draws(SEED, len(grid) - 1))
    assert difference(mine, path) < case.bound


@pytest.mark.parametrize("name", IN_SIGMA)
def test_in_sigma_over_alpha(name):
    case = IN_SIGMA[name]
    scheduler = case.make(STEPS - (STEPS - 1) % case.calls if case.scheduler == "DPMSolverSinglestep" else STEPS)
    noise = draws(SEED, 2 * STEPS)
    if case.scheduler == "DPMSolverSDE":
        drawn = iter(noise)
        scheduler.noise_sampler = lambda *_: next(drawn)  # instead of a Brownian tree
    path = theirs(scheduler, scales(scheduler, scheduler.sigmas[0])[1] * draws(0, 1)[0], case.options, case.keep)
    # Of several calls the first starts a step of ours.
    starts = [*range(0, len(path) - 1, case.calls), len(path) - 1]
    sigmas = scheduler.sigmas[starts]
    path = path[starts] / (scales(scheduler, sigmas)[0] * torch.ones(len(starts)))[:, None, None]
    steps = len(starts) - 1
    if isinstance(case.solver, solvers.DPMppSDE):
        noise = coupled(sigmas.double().tolist(), noise[: 2 * steps].reshape(steps, 2, *SHAPE)).float()
    else:
        noise = noise[:steps]
    top = float(sigmas[0])
    mine = ours(case.solver, schedules.EDM(sigma_max=top), (sigmas / top).numpy(), path[0], noise)
    assert difference(mine, path) < case.bound


@pytest.mark.parametrize("name", FLOW)
def test_flow_matching(name):
    case, x = FLOW[name], draws(0, 1)[0]
    scheduler = case.make()
    path = theirs(scheduler, x, case.options)
    starts = [*range(0, len(path) - 1, case.calls), len(path) - 1]
    mine = ours(case.solver, schedules.RectifiedFlow(), scheduler.sigmas[starts].numpy(), x, draws(SEED, STEPS))
    assert difference(mine, path[starts]) < case.bound


class Repaired(diffusers.DPMSolverMultistepScheduler):
    """diffusers' third-order SDE (added in its #9104) has (1 - e^-2h - 2h) / (2h)^2 - 1/2 for + 1/2: it tends to -1."""

    def multistep_dpm_solver_third_order_update(self, outputs, *, sample, noise):
        wrong = super().multistep_dpm_solver_third_order_update(outputs, sample=sample, noise=noise)
        points = [scales(self, self.sigmas[self.step_index + i]) for i in (1, 0, -1, -2)]
        end, now, before, first = (torch.log(alpha / sigma) for alpha, sigma in points)
        m2, m1, m0 = outputs
        second = ((m0 - m1) / (now - before) - (m1 - m2) / (before - first)) / (now - first) * (end - now) ** 2
        return wrong + points[0][0] * second


@pytest.mark.parametrize(("scheduler", "agrees"), [(Repaired, True), (diffusers.DPMSolverMultistepScheduler, False)])
def test_third_order_sde(scheduler, agrees):
    """The reference is wrong here; with its sign set right it agrees, and k-diffusion's agrees as it is."""
    scheduler = scheduler(**SDE, solver_order=3, solver_type="heun", lower_order_final=False)
    scheduler.set_timesteps(STEPS)
    x = draws(0, 1)[0]
    path = theirs(scheduler, x, DRAWN)
    solver = solvers.DPMpp3MSDE(published=True)
    mine = ours(solver, table(scheduler), entry([*scheduler.timesteps, -1]), x, draws(SEED, STEPS))
    assert (difference(mine, path) < 2e-5) == agrees
