"""Guidance that needs a step or a memory: CFG++, `solvers.Memory`, and momentum."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conformance import SCHEDULES, SOLVERS, mixture

from jaxdiff import Gaussian, guidance, sample, schedules, solvers

SCHEDULE = schedules.Cosine()
PROCESS = Gaussian(schedule=SCHEDULE)
EXACT = mixture().denoiser(SCHEDULE)
NULL = jnp.int32(-1)
X = jax.random.normal(jax.random.key(0), (6, 2))
COND = jnp.array([0, 1, 2, 2, 1, 0])
GRID = jnp.linspace(1, 0, 8)
KEY = jax.random.key(5)
KEYS = jax.random.split(KEY, 6)
ONE_CALL = [name for name, solver in SOLVERS.items() if getattr(solver, "one_call", False)]
sampler = functools.partial(jax.jit, static_argnames=("spec",))(sample)


def guided(scale=0.6, schedule=SCHEDULE, rule=None):
    rule = guidance.scale(scale=scale) if rule is None else rule
    return guidance.classifier_free(mixture().denoiser(schedule), COND, NULL, rule)


def draw(solver, denoise, grid=GRID, process=PROCESS):
    return sampler(KEY, process, denoise, solver, grid, x=X)[0]


# --- CFG++


@pytest.mark.parametrize("name", SCHEDULES)
def test_cfgpp_of_ddim_is_the_published_step(name):
    """alpha_s D_g + sigma_s eps_u, from the pair of estimates, in both directions."""
    process, denoise = Gaussian(schedule=SCHEDULES[name]), guided(schedule=SCHEDULES[name])
    for t, s in ((0.9, 0.6), (0.5, 0.45), (0.4, 0.8)):
        t, s = jnp.float32(t), jnp.float32(s)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = process.schedule(t), process.schedule(s)
        c, u = denoise.pair(X, t)
        expected = alpha_s * (u + 0.6 * (c - u)) + sigma_s * (X - alpha_t * u) / sigma_t
        x_s, _ = guidance.CFGpp(inner=solvers.DDIM()).step(KEYS, process, denoise, X, t, s, ())
        np.testing.assert_allclose(x_s, expected, rtol=1e-4, atol=1e-4)


def test_cfgpp_of_an_ancestral_step_keeps_only_a_part_of_the_unconditional_noise():
    """In sigma, as samplers on alpha = 1 write it: D_g + sigma_down eps_u + sigma_up z."""
    process, denoise = Gaussian(schedule=schedules.EDM()), guided(schedule=schedules.EDM())
    t, s, z = jnp.float32(0.1), jnp.float32(0.05), jax.random.normal(KEY, (1, 6, 2))
    sigma_t, sigma_s = 8.0, 4.0
    up = np.sqrt(sigma_s**2 * (sigma_t**2 - sigma_s**2) / sigma_t**2)
    c, u = denoise.pair(X, t)
    expected = u + 0.6 * (c - u) + np.sqrt(sigma_s**2 - up**2) * (X - u) / sigma_t + up * z[0]
    for inner in (solvers.Ancestral(), solvers.DDIM(eta=1.0)):
        x_s, _ = guidance.CFGpp(inner=inner).step(z, process, denoise, X, t, s, ())
        np.testing.assert_allclose(x_s, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ONE_CALL)
def test_wrappers_that_have_nothing_to_do_are_the_solver_inside(name):
    """CFG++ at scale 0, which leaves the unconditional denoiser, and a memory that nobody reads."""
    unconditional = guidance.condition(EXACT, jnp.full(6, -1))
    plain = draw(SOLVERS[name], unconditional)
    forgetful = jax.tree_util.Partial(lambda denoise, x, t, memory: (denoise(x, t), memory), unconditional)
    np.testing.assert_allclose(draw(guidance.CFGpp(inner=SOLVERS[name]), guided(0.0)), plain, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(draw(memoryless(SOLVERS[name]), forgetful), plain, rtol=1e-5, atol=1e-6)


def test_one_step_of_cfgpp_is_plain_guidance_with_a_scale_that_grows_as_the_step_shrinks():
    for t, s in ((0.9, 0.3), (0.6, 0.5), (0.5, 0.49)):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = SCHEDULE(jnp.float32(t)), SCHEDULE(jnp.float32(s))
        larger = 0.6 / (1 - (alpha_t / sigma_t) / (alpha_s / sigma_s))
        assert larger > 0.6
        grid = jnp.array([t, s], jnp.float32)
        plain, plus = (
            draw(solvers.DDIM(), guided(larger), grid),
            draw(guidance.CFGpp(inner=solvers.DDIM()), guided(), grid),
        )
        np.testing.assert_allclose(plus, plain, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "inner", [solvers.DDIM(), solvers.Ancestral(), solvers.DPMpp2M()], ids=lambda s: type(s).__name__
)
def test_cfgpp_returns_the_guided_value_at_the_data(inner):
    """Bit-equal at s = 0, also right after alpha = 0."""
    denoise = guided()
    for t in (0.6, 1.0):
        last = draw(guidance.CFGpp(inner=inner), denoise, jnp.array([t, 0.0]))
        np.testing.assert_array_equal(last, jax.jit(lambda denoise, t: denoise(X, t))(denoise, jnp.float32(t)))


def test_inversion_with_cfgpp_starts_from_the_data():
    """Where sigma = 0 both estimates are the data, and nothing is shifted or divided."""
    noise = draw(guidance.CFGpp(inner=solvers.DDIM()), guided(), jnp.linspace(0, 1, 9))
    assert jnp.isfinite(noise).all()


def test_cfgpp_outside_the_interval_is_the_inner_solver_on_the_conditional_denoiser():
    rule = guidance.interval(rule=guidance.scale(scale=0.6), low=0.2, high=0.4)
    plain = draw(solvers.DDIM(), guidance.condition(EXACT, COND), jnp.array([1.0, 0.7, 0.5, 0.3]))
    plus = draw(guidance.CFGpp(inner=solvers.DDIM()), guided(rule=rule), jnp.array([1.0, 0.7, 0.5, 0.3]))
    np.testing.assert_allclose(plus, plain, rtol=1e-5, atol=1e-5)


def test_one_trace_serves_every_scale_of_cfgpp():
    traces = []

    def network(x, t, cond=None):
        traces.append(1)
        return EXACT(x, t, cond)

    network = jax.tree_util.Partial(network)
    run = lambda scale, eta: draw(
        guidance.CFGpp(inner=solvers.DDIM(eta=jnp.float32(eta))),
        guidance.classifier_free(network, COND, NULL, guidance.scale(scale=jnp.float32(scale))),
    )
    first = run(0.2, 0.0)
    count = len(traces)
    assert jnp.abs(run(0.8, 0.0) - first).max() > 1e-2 and jnp.abs(run(0.2, 0.5) - first).max() > 1e-2
    assert len(traces) == count


@pytest.mark.parametrize("wrap", [lambda inner: guidance.CFGpp(inner=inner), lambda inner: memoryless(inner)])
def test_wrappers_have_the_order_and_calls_of_the_solver_inside(wrap):
    for name in ONE_CALL:
        assert wrap(SOLVERS[name]).order == SOLVERS[name].order
        padded = jnp.concatenate([GRID, jnp.zeros(3)])
        assert int(wrap(SOLVERS[name]).nfe(padded)) == int(SOLVERS[name].nfe(padded)) == 7


@pytest.mark.parametrize("wrap", [lambda inner: guidance.CFGpp(inner=inner), lambda inner: memoryless(inner)])
def test_wrappers_refuse_solvers_that_call_more_than_once(wrap):
    with pytest.raises(ValueError, match="one_call"):
        wrap(solvers.Heun())
    with pytest.raises(ValueError, match="one_call"):
        wrap(memoryless(solvers.DDIM()))  # it would need a memory
    with pytest.raises(ValueError, match="one_call"):
        wrap(guidance.CFGpp(inner=solvers.DDIM()))  # it would need the pair


@pytest.mark.parametrize("denoise", [EXACT, guidance.condition(EXACT, COND), guidance.dynamic_threshold(guided())])
def test_cfgpp_refuses_denoisers_without_the_pair(denoise):
    with pytest.raises(ValueError, match="classifier_free"):
        sample(KEY, PROCESS, denoise, guidance.CFGpp(inner=solvers.DDIM()), GRID, x=X)


# --- memory


def memoryless(inner):
    return solvers.Memory(inner=inner, start=lambda x: ())


def test_memory_goes_from_step_to_step():
    """Each call sees what the one before left: here the number of calls and the times they stood at."""
    seen = []

    def denoise(x, t, memory):
        jax.debug.callback(lambda count, last, t: seen.append((int(count), float(last), float(t))), *memory, t)
        return 0.5 * x, (memory[0] + 1, t)

    solver = solvers.Memory(inner=solvers.DPMpp2M(), start=lambda x: (jnp.int32(0), jnp.float32(-1.0)))
    grid = jnp.array([1.0, 0.75, 0.75, 0.5, 0.0])  # a step that stands still leaves the memory alone
    _, info = sample(KEY, PROCESS, denoise, solver, grid, x=X)
    jax.effects_barrier()
    assert seen == [(0, -1.0, 1.0), (1, 1.0, 0.75), (2, 0.75, 0.5)]
    assert int(info.nfe) == 3


# --- momentum


def published_apg(c, u, running, scale, eta, threshold, beta):
    """arXiv 2410.02416, alg. 1, for one sample in NumPy."""
    running = (c - u) + beta * running
    update = running * min(1.0, threshold / np.linalg.norm(running))
    direction = c / np.linalg.norm(c)
    parallel = (update @ direction) * direction
    return c + (scale - 1) * (update - parallel + eta * parallel), running


def test_momentum_with_apg_is_the_published_algorithm():
    rule = guidance.apg(scale=4.0, eta=0.2, norm_threshold=0.7)
    denoise, solver = (
        guidance.momentum(guided(rule=rule), -0.6),
        solvers.Memory(inner=solvers.DDIM(), start=jnp.zeros_like),
    )
    x, running, state = X, np.zeros((6, 2)), solver.init(PROCESS, X, GRID)
    shortened = 0
    for t, s in itertools.pairwise(GRID):
        c, u = (np.asarray(a, float) for a in guided().pair(x, t))
        both = [published_apg(c[i], u[i], running[i], 4.0, 0.2, 0.7, -0.6) for i in range(6)]
        x0, running = (np.stack(part) for part in zip(*both, strict=True))
        shortened += (np.linalg.norm(running, axis=1) > 0.7).sum()
        got, _ = denoise(x, t, state[1])
        np.testing.assert_allclose(got, x0, rtol=1e-3, atol=1e-3)
        x, state = solver.step(KEYS, PROCESS, denoise, x, t, s, state)
        np.testing.assert_allclose(state[1], running, rtol=1e-3, atol=1e-3)
    assert 6 < shortened < 36  # both branches
    np.testing.assert_allclose(x, draw(solver, denoise), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("rule", [guidance.scale(scale=3.0), guidance.apg(scale=3.0)], ids=["scale", "apg"])
def test_without_momentum_it_is_plain_guidance(rule):
    run = draw(solvers.Memory(inner=solvers.DPMpp2M(), start=jnp.zeros_like), guidance.momentum(guided(rule=rule), 0.0))
    np.testing.assert_allclose(run, draw(solvers.DPMpp2M(), guided(rule=rule)), rtol=1e-4, atol=1e-4)


def test_momentum_sums_the_differences_geometrically_and_each_sample_has_its_own():
    denoise = guidance.classifier_free(
        lambda x, t, cond: jnp.ones_like(x) * cond[:, None], jnp.ones(6), jnp.zeros(6), guidance.scale(scale=2.0)
    )
    betas, memory = jnp.linspace(-0.9, 0.9, 6), jnp.zeros_like(X)
    for n in range(1, 6):
        x0, memory = guidance.momentum(denoise, betas)(X, jnp.float32(0.5), memory)
        total = (1 - betas**n) / (1 - betas)
        np.testing.assert_allclose(memory, jnp.broadcast_to(total[:, None], (6, 2)), rtol=1e-5)
        np.testing.assert_allclose(x0, 1 + memory, rtol=1e-5)  # c + (scale - 1) m


def test_momentum_skips_outside_the_interval():
    rows = []

    def denoise(x, t, cond=None):
        jax.debug.callback(lambda _, size=x.shape[0]: rows.append(size), t)
        return EXACT(x, t, cond)

    rule = guidance.interval(rule=guidance.apg(scale=3.0), low=0.3, high=0.7)
    guided = guidance.classifier_free(denoise, COND, NULL, rule)
    solver = solvers.Memory(inner=solvers.DDIM(), start=jnp.zeros_like)
    sample(KEY, PROCESS, guidance.momentum(guided), solver, jnp.array([1.0, 0.8, 0.5, 0.2, 0.0]), x=X)
    jax.effects_barrier()
    assert rows == [6, 6, 12, 6]


def test_one_trace_serves_every_momentum():
    traces = []

    def network(x, t, cond=None):
        traces.append(1)
        return EXACT(x, t, cond)

    network, solver = jax.tree_util.Partial(network), solvers.Memory(inner=solvers.DDIM(), start=jnp.zeros_like)
    rule = lambda scale: guidance.apg(scale=jnp.float32(scale), eta=jnp.float32(0.0))
    run = lambda scale, beta: draw(
        solver,
        guidance.momentum(guidance.classifier_free(network, COND, NULL, rule(scale)), jnp.float32(beta)),
    )
    first = run(3.0, -0.5)
    count = len(traces)
    assert jnp.abs(run(3.0, 0.5) - first).max() > 1e-2 and jnp.abs(run(5.0, -0.5) - first).max() > 1e-2
    assert len(traces) == count


def test_momentum_refuses_what_it_cannot_use():
    with pytest.raises(ValueError, match="classifier_free"):
        guidance.momentum(EXACT)
    for beta in (1.0, -1.5, jnp.array([0.0, 2.0, 0.0, 0.0, 0.0, 0.0])):
        with pytest.raises(ValueError, match="beta"):
            guidance.momentum(guided(), beta)
