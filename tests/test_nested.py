"""Nested data against the exact law of a number and a token: a Gaussian mixture whose component is the token."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiff import (
    Discrete,
    Gaussian,
    Nested,
    TrainState,
    grids,
    likelihood,
    make_step,
    noise,
    parallel,
    predictions,
    sample,
    schedules,
    solvers,
    training,
    weightings,
)
from jaxdiff.solvers.steps import real_steps
from jaxdiff.types import expand, pytree

K, SPREAD = 3, 0.3
MEANS, WEIGHTS = (-1.5, 0.2, 1.0), (0.5, 0.2, 0.3)
NUMBER = Gaussian(schedule=schedules.Cosine(), prediction=predictions.v())
TOKENS = {"mask": lambda: Discrete.masked(K), "uniform": lambda: Discrete.uniform(K)}
SOLVERS = {
    "ddim": solvers.Each(parts={"k": solvers.Ancestral(), "x": solvers.DDIM()}),
    "ancestral": solvers.Each(parts={"k": solvers.Ancestral(), "x": solvers.Ancestral()}),
    "multistep": solvers.Each(parts={"k": solvers.Ancestral(), "x": solvers.DPMpp2M()}),
}
run = jax.jit(sample)


def process(kind="mask", **options):
    return Nested(parts={"x": NUMBER, "k": TOKENS[kind]()}, **options)


def spec(size):
    return {"x": jax.ShapeDtypeStruct((size, 1), jnp.float32), "k": jax.ShapeDtypeStruct((size, 1), jnp.int32)}


def draw(key, size):
    k = jax.random.categorical(key, jnp.log(jnp.array(WEIGHTS)), shape=(size, 1)).astype(jnp.int32)
    x = jnp.array(MEANS)[k] + SPREAD * jax.random.normal(jax.random.fold_in(key, 1), (size, 1))
    return {"x": x, "k": k}


def log_prob(data):
    x, k = data["x"], data["k"]
    log_normal = -0.5 * ((x - jnp.array(MEANS)[k]) / SPREAD) ** 2 - jnp.log(SPREAD * jnp.sqrt(2 * jnp.pi))
    return (jnp.log(jnp.array(WEIGHTS))[k] + log_normal)[:, 0]


@pytree
class Exact:
    """v for E[x0 | x_t, z_t], and logits of p(k | x_t, z_t): the joint network; with `joint` = 0 the product of two."""

    process: Nested
    joint: float = 1.0

    def __call__(self, data, t, cond=None):
        clocks = t if isinstance(t, dict) else dict.fromkeys(data, t)
        alpha, sigma = (expand(a, data["x"]) for a in NUMBER.schedule(clocks["x"]))
        x_t = data["x"]
        means, variance = alpha * jnp.array(MEANS), (alpha * SPREAD) ** 2 + sigma**2
        of_x = -0.5 * (x_t - means) ** 2 / variance
        of_k = jnp.log(self.process.parts["k"].evidence(data["k"], clocks["k"])[:, 0])
        prior = jnp.log(jnp.array(WEIGHTS))
        share = lambda other: jnp.where(self.joint > 0, other, 0.0)
        pull = jnp.array(MEANS) + alpha * SPREAD**2 / variance * (x_t - means)
        x0 = (jax.nn.softmax(prior + of_x + share(of_k)) * pull).sum(-1, keepdims=True)
        return {"x": (alpha * x_t - x0) / jnp.where(sigma > 0, sigma, 1.0), "k": (prior + of_k + share(of_x))[:, None]}


def denoiser(of, observed=None, joint=1.0):
    return of.denoiser(jax.tree_util.Partial(Exact.__call__, Exact(process=of, joint=joint)), observed)


def check_law(data, frequencies, bias=0.0):
    """Of k, and mean and spread of x given k, within 4.5 standard errors."""
    x, k = np.asarray(data["x"])[:, 0], np.asarray(data["k"])[:, 0]
    for i, p in enumerate(frequencies):
        group = x[k == i]
        assert abs(len(group) / len(x) - p) < 4.5 * np.sqrt(p * (1 - p) / len(x)) + bias
        if p:
            assert abs(group.mean() - MEANS[i]) < 4.5 * SPREAD / np.sqrt(len(group)) + bias
            assert abs(group.std() - SPREAD) < 4.5 * SPREAD / np.sqrt(2 * len(group)) + bias


@functools.partial(jax.jit, static_argnames=("size", "steps"))
def drawn(of, solver, joint, *, size=20_000, steps=64):
    grid = grids.uniform(of.schedule, steps)
    return sample(jax.random.key(0), of, denoiser(of, joint=joint), solver, grid, spec=spec(size))


@pytest.mark.parametrize(("kind", "solver"), [("uniform", "ancestral"), ("mask", "multistep")])
def test_samples_have_the_joint_law(kind, solver):
    data, info = drawn(process(kind), SOLVERS[solver], 1.0)
    assert int(info.nfe) == 64
    check_law(data, WEIGHTS, bias=0.02)
    with pytest.raises(AssertionError):  # the right marginals, without what ties them
        check_law(drawn(process(kind), SOLVERS[solver], 0.0)[0], WEIGHTS, bias=0.02)


@pytree
class Folded:
    """A solver of one part alone, with the source that it has as part i of nested data."""

    inner: object
    i: int

    order = 1

    def nfe(self, grid):
        return real_steps(grid)

    def init(self, process, x, grid):
        return self.inner.init(process, x, grid)

    def step(self, keys, process, denoise, x, t, s, state):
        return self.inner.step(noise.fold(keys, self.i), process, denoise, x, t, s, state)


def test_a_product_is_its_parts_run_apart():
    """Bit for bit in each method of the process, and in the samples up to how two compiled programs round."""
    of, size, key = process("uniform"), 64, jax.random.key(7)
    keys = noise.sample_keys(key, size)
    data, grid, t, s = draw(key, size), grids.uniform(of.schedule, 6), jnp.full(size, 0.6), jnp.full(size, 0.4)
    prior, (noisy, target) = of.prior(keys, spec(size)), of.corrupt(keys, data, t)
    later, independent = of.forward(keys, noisy, s, t), denoiser(of, joint=0.0)
    denoised = independent(noisy, t)
    earlier = of.bridge(keys, denoised, noisy, t, s)
    solver = solvers.Each(parts={"k": solvers.Ancestral(), "x": solvers.DDIM(eta=0.5)})
    joint, _ = run(key, of, independent, solver, grid, x=prior)
    equal, rounded = np.testing.assert_array_equal, functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-6)
    outputs = Exact(process=of, joint=0.0)(of.inputs(noisy, t), t)
    total = 0.0
    for i, name in enumerate(("k", "x")):
        part, mine = of.parts[name], noise.fold(keys, i)
        other = {"k": jnp.zeros((size, 1), jnp.int32), "x": jnp.zeros((size, 1))}
        alone = lambda x, t, cond=None, name=name, other=other: independent({**other, name: x}, t)[name]
        one, _ = run(
            key, part, jax.tree_util.Partial(alone), Folded(inner=solver.parts[name], i=i), grid, x=prior[name]
        )
        (equal if name == "k" else rounded)(joint[name], one)
        equal(prior[name], part.prior(mine, spec(size)[name]))
        equal(noisy[name], part.corrupt(mine, data[name], t)[0])
        equal(target[name], part.corrupt(mine, data[name], t)[1])
        equal(later[name], part.forward(mine, noisy[name], s, t))
        equal(earlier[name], part.bridge(mine, denoised[name], noisy[name], t, s))
        total += (2.0, 0.5)[i] * part.loss(outputs[name], noisy[name], target[name], t)
    weighed = Nested(parts=of.parts, weights={"k": 2.0, "x": 0.5})
    np.testing.assert_allclose(weighed.loss(outputs, noisy, target, t), total, rtol=1e-6)
    # The process's own bridge takes the same draws as a solver for each part.
    whole, _ = run(key, of, independent, solvers.Ancestral(), grid, x=prior)
    for name, value in run(key, of, independent, SOLVERS["ancestral"], grid, x=prior)[0].items():
        np.testing.assert_array_equal(whole[name], value)


@pytest.mark.parametrize("schedule", [None, schedules.RectifiedFlow()])
@pytest.mark.parametrize("kind", TOKENS)
def test_the_bound_is_the_exact_log_probability(kind, schedule):
    """For every example within the error of its mean, wherever the times are placed; looser for the product."""
    of, copies = process(kind, schedule=schedule), 1500
    data = {"x": jnp.array([[-1.7], [0.3], [0.6], [1.2]]), "k": jnp.array([[0], [1], [1], [2]], jnp.int32)}
    x0 = jax.tree.map(lambda a: jnp.repeat(a, copies, 0), data)
    bound = lambda joint: np.asarray(elbo(of, joint, x0)).reshape(4, copies)
    exact, product = bound(1.0), bound(0.0)
    error = exact.std(1) / np.sqrt(copies)
    assert error.max() < 0.06
    np.testing.assert_array_less(abs(exact.mean(1) - np.asarray(log_prob(data))), 4.5 * error + 8e-3)
    assert np.exp(log_prob(data)) @ (exact.mean(1) - product.mean(1)) > 0.1


@jax.jit
def elbo(of, joint, x0):
    return likelihood.elbo(jax.random.key(0), of, denoiser(of, joint=joint), x0, t_min=1e-3, draws=32)


@pytest.mark.parametrize("kind", TOKENS)
def test_what_is_observed_conditions_the_rest(kind):
    of, size = process(kind), 20_000
    grid = grids.uniform(of.schedule, 64)
    tokens = (jnp.arange(size) % K).astype(jnp.int32)[:, None]
    seen = {"k": (jnp.ones((1, 1), bool), tokens), "x": None}
    data, _ = run(jax.random.key(1), of, denoiser(of, seen), SOLVERS["ddim"], grid, x=of_prior(of, size))
    np.testing.assert_array_equal(data["k"], tokens)
    check_law(data, (1 / K,) * K, bias=0.02)
    x = jnp.full((size, 1), 0.55)
    seen = {"k": None, "x": (jnp.ones((1, 1), bool), x)}
    data, _ = run(jax.random.key(2), of, denoiser(of, seen), SOLVERS["ddim"], grid, x=of_prior(of, size))
    np.testing.assert_array_equal(data["x"], x)
    posterior = jax.nn.softmax(log_prob({"x": x[:K], "k": jnp.arange(K, dtype=jnp.int32)[:, None]}))
    assert posterior.max() < 0.7
    np.testing.assert_allclose(np.bincount(data["k"][:, 0], minlength=K) / size, posterior, atol=0.017)


def of_prior(of, size):
    return of.prior(noise.sample_keys(jax.random.key(3), size), spec(size))


def init(key, width=32):
    into, out = jax.random.split(key)
    return {
        "into": jax.random.normal(into, (K + 4, width)) * 0.5,
        "bias": jnp.zeros(width),
        "out": jax.random.normal(out, (width, K + 1)) * 0.1,
    }


def apply(params, data, t, cond=None, key=None):
    """One hidden layer that sees the number, the token and the time."""
    clock = expand(t, data["x"])
    features = jnp.concatenate([data["x"], jax.nn.one_hot(data["k"][:, 0], K + 1), clock, 0 * clock + 1], -1)
    hidden = jnp.tanh(features[:, : K + 3] @ params["into"][: K + 3] * 2 + params["bias"])
    out = hidden @ params["out"]
    return {"x": out[:, :1], "k": out[:, None, 1:]}


def test_training_uses_what_one_part_says_of_the_other():
    """Below the least loss of two independent networks, and not below the exact joint one's."""
    of = process(weights={"k": 1.0, "x": 2.0})
    optimizer = optax.adam(0.02)
    step = jax.jit(training.several(make_step(of, apply, optimizer, ema=0.97)))
    batches = jax.tree.map(lambda a: a.reshape(400, 128, 1), draw(jax.random.key(0), 400 * 128))
    state, metrics = step(TrainState.create(init(jax.random.key(1)), optimizer), jax.random.key(2), {"x0": batches})
    assert metrics["loss"][-50:].mean() < metrics["loss"][0]

    size = 20_000
    keys, t = noise.sample_keys(jax.random.key(4), size), (jnp.arange(size) + 0.5) / size
    objective, data = training.denoising(of), draw(jax.random.key(3), size)
    loss = lambda network: jax.jit(lambda params: objective(network, params, None, keys, {"x0": data}, t)[0])(state.ema)
    exact = lambda joint: lambda params, x, t, cond, key: Exact(process=of, joint=joint)(x, t)
    learned, joint, apart = loss(apply), loss(exact(1.0)), loss(exact(0.0))
    margin = lambda a, b: float((a - b).mean() / ((a - b).std() / np.sqrt(size)))
    assert margin(apart, learned) > 4.5
    assert margin(learned, joint) > -3


def test_observed_in_training():
    """Known elements are shown at their own time, and do not count."""
    of, size, seen = process(), 16, []
    data, t = draw(jax.random.key(0), size), jnp.linspace(0.1, 0.9, size)
    keys, known = noise.sample_keys(jax.random.key(1), size), (jnp.arange(size) % 2 == 0)[:, None]

    def network(params, x, t, cond, key):
        seen.append((x, t))
        return Exact(process=of)(x, t)

    loss = lambda observed: training.denoising(of)(network, None, None, keys, {"x0": data, "observed": observed}, t)[0]
    with_tokens, hidden = loss({"k": known, "x": None}), loss({"k": jnp.zeros_like(known), "x": None})
    (x, clock), (blind, _) = seen
    np.testing.assert_array_equal(x["k"], jnp.where(known, data["k"], blind["k"]))
    np.testing.assert_array_equal(x["x"], blind["x"])
    np.testing.assert_array_equal(clock["k"], jnp.where(known, 0.0, t[:, None]))
    np.testing.assert_array_equal(clock["x"], t)
    np.testing.assert_array_equal(hidden, loss(None))
    x_t, target = of.corrupt(noise.fold(keys, 0), data, t)
    shown = {"x": x_t["x"], "k": jnp.where(known, data["k"], x_t["k"])}
    clocks = {"x": t, "k": jnp.where(known, 0.0, t[:, None])}
    output = Exact(process=of)(of.inputs(shown, clocks), clocks)
    alone = NUMBER.loss(output["x"], x_t["x"], target["x"], t)
    np.testing.assert_array_equal(with_tokens[::2], alone[::2])
    assert (with_tokens[1::2] > alone[1::2]).any()
    assert (loss({"k": known | True, "x": known | True}) == 0).all()
    with pytest.raises(ValueError, match="observed must have the structure of x0"):
        loss(known)


def test_eight_devices_give_the_same_numbers():
    of, size, solver = process(), 64, SOLVERS["ddim"]
    grid, key, mesh = grids.uniform(of.schedule, 4), jax.random.key(0), parallel.make_mesh()
    data = draw(key, size)
    seen = {"k": (jnp.arange(size)[:, None] % 2 == 0, data["k"]), "x": None}
    arguments = key, of, denoiser(of, seen), solver, grid
    expected, info = jax.jit(functools.partial(sample, spec=spec(size), trajectory=True))(*arguments)
    for on in (parallel.pmap_sample, functools.partial(parallel.shard_sample, mesh=mesh)):
        got, again = on(*arguments, spec=spec(size), trajectory=True)
        for a, b in ((expected, got), (info.trajectory, again.trajectory)):
            np.testing.assert_array_equal(a["k"], b["k"])
            np.testing.assert_allclose(a["x"], b["x"], atol=1e-5)
        assert again.nfe == info.nfe == 4


def test_a_step_on_eight_devices_is_a_step_on_one():
    of, optimizer, batch = process(), optax.sgd(0.1), {"x0": draw(jax.random.key(0), 64)}
    batch["observed"] = {"k": None, "x": jnp.arange(64)[:, None] % 4 == 0}
    see = lambda params, x, t, cond, key=None: apply(params, x, t["k"])
    step, key = make_step(of, see, optimizer), jax.random.key(2)
    state = lambda: TrainState.create(init(jax.random.key(1)), optimizer)
    expected = jax.jit(step)(state(), key, batch)
    got = parallel.pmap_step(step)(parallel.replicate(state()), parallel.replicate(key), batch)
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(got), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="8 devices must divide the batch, got a batch of 60; 56 or 64 would do"):
        parallel.pmap_step(step)(state(), key, jax.tree.map(lambda a: a[:60], batch))


def test_one_schedule_places_times_and_no_weighting_depends_on_it():
    """The schedule that the grids see is one part's; a weighting by it is refused: wrong for the others."""
    of = process()
    assert of.schedule == of.parts["k"].schedule == schedules.RectifiedFlow()
    assert process(schedule=NUMBER.schedule).schedule == schedules.Cosine()
    for weighting in (weightings.eps(), weightings.min_snr()):
        with pytest.raises(ValueError, match="leave weighting out"):
            make_step(of, apply, optax.sgd(0.1), weighting=weighting)
    make_step(of, apply, optax.sgd(0.1), weighting=weightings.v())


def test_bad_arguments_say_what_to_do():
    of, keys, data = process(), noise.sample_keys(jax.random.key(0), 4), draw(jax.random.key(0), 4)
    for parts in ({"x": Gaussian}, {"x": 1.0}, [of]):
        with pytest.raises(ValueError, match="each part must be a process"):
            Nested(parts=parts)
    with pytest.raises(ValueError, match="at least one process"):
        Nested(parts={})
    with pytest.raises(ValueError, match="weights must have the structure of the parts"):
        process(weights={"x": 1.0})
    with pytest.raises(ValueError, match="one number >= 0"):
        process(weights={"x": -1.0, "k": 1.0})
    for wrong in (data["x"], {"x": data["x"]}, (data["x"], data["k"])):
        with pytest.raises(ValueError, match="data must have the structure of the parts"):
            of.corrupt(keys, wrong, 0.5)
    with pytest.raises(ValueError, match="spec must have the structure"):
        of.prior(keys, spec(4)["x"])
    with pytest.raises(ValueError, match="network's output must have the structure"):
        of.denoiser(lambda x, t, cond: x["x"])(data, 0.5)
    with pytest.raises(ValueError, match="observed must have the structure"):
        of.denoiser(Exact(process=of), observed=(data["x"] > 0, data["x"]))
    with pytest.raises(ValueError, match=r"must lie in \[0, 3\)"):
        of.denoiser(Exact(process=of), observed={"x": None, "k": (data["k"] >= 0, data["k"] + K)})
    with pytest.raises(ValueError, match="pass a key and no noise"):
        of.corrupt(jnp.zeros((2, 4, 1)), data, 0.5)
    for parts in ({"x": solvers.Heun()}, {"x": solvers.DDIM}, {"x": 1.0}):
        with pytest.raises(ValueError, match="declare one_call = True"):
            solvers.Each(parts=parts)
    with pytest.raises(ValueError, match="at least one solver"):
        solvers.Each(parts=())
    with pytest.raises(ValueError, match="give one process one solver"):
        SOLVERS["ddim"].init(NUMBER, data["x"], jnp.linspace(1, 0, 3))
    with pytest.raises(ValueError, match="solvers must have the structure"):
        solvers.Each(parts=[solvers.DDIM()]).init(of, data, jnp.linspace(1, 0, 3))
    assert SOLVERS["multistep"].order == 1 and solvers.Each(parts=[solvers.DPMpp2M()]).order == 2
