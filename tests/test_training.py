"""The training step: layout, averages, masks and conditions, and that training finds the exact denoiser."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conformance import mixture
from flax import linen
from small_steps import (
    LINEAR,
    PROCESS,
    SGD,
    close,
    examples,
    gradient,
    jit,
    linear,
    noisy_step,
    state_of,
    take,
)

from jaxdiff import (
    Gaussian,
    TrainState,
    grids,
    make_step,
    networks,
    predictions,
    sample,
    schedules,
    solvers,
    times,
)
from jaxdiff import weightings as weights
from jaxdiff.training import denoising


def test_the_order_of_a_batch_does_not_matter():
    step, state = noisy_step()
    batch, order = examples(), jax.random.permutation(jax.random.key(2), 16)
    expected, permuted = gradient(step, state, batch), gradient(step, state, take(batch, order))
    close(permuted, expected)
    moved = gradient(step, state, {**take(batch, order), "index": batch["index"]})
    assert abs(moved[1]["loss"] / expected[1]["loss"] - 1) > 1e-3  # with other indices it is another draw


def test_the_step_counts_into_the_noise_and_the_key_does_too():
    step, state = noisy_step()
    loss = lambda seed, count: float(
        step(TrainState(**{**vars(state), "step": jnp.int32(count)}), jax.random.key(seed), examples())[1]["loss"]
    )
    assert loss(0, 0) == loss(0, 0)
    assert len({loss(0, 0), loss(0, 1), loss(1, 0)}) == 3


def test_without_an_index_it_is_the_position_in_the_batch():
    step, state = noisy_step()
    batch = examples(first=0)
    close(gradient(step, state, {k: batch[k] for k in ("x0", "cond")}), gradient(step, state, batch))


def test_half_batches_average_to_the_whole():
    """Gradients and metrics are means over examples: of two calls where times do not depend on the batch's size."""
    step = jit(make_step(PROCESS, linear, SGD, times=times.uniform(draw=times.independent)))
    state, batch = state_of(LINEAR), examples()
    halves = [gradient(step, state, take(batch, rows)) for rows in (slice(8), slice(8, 16))]
    mean, (expected, metrics) = jax.tree.map(lambda a, b: (a + b) / 2, *halves), gradient(step, state, batch)
    close(mean[0], expected)
    close([mean[1][k] for k in ("loss", "error")], [metrics[k] for k in ("loss", "error")])


def test_an_axis_joins_the_parts_of_a_batch():
    """Stratified times know the size of the whole batch: each part gives the result of the whole."""
    step = make_step(PROCESS, linear, SGD, null_cond=jnp.int32(3), cond_dropout=0.5)
    state, batch = state_of(LINEAR), examples()
    parts = jax.tree.map(lambda leaf: leaf.reshape(4, 4, *leaf.shape[1:]), batch)
    joined = jit(jax.vmap(lambda part: gradient(step, state, part, axis_name="data"), axis_name="data"))(parts)
    close(joined, jax.tree.map(lambda leaf: jnp.stack([leaf] * 4), gradient(step, state, batch)))


def test_metrics_and_gradients_are_means_over_the_batch():
    def objective(apply, params, ema, keys, batch, t):
        loss = batch["value"] * params["w"].sum()
        return loss, {"square": batch["value"] ** 2, "time": t}

    value = jnp.array([1.0, 2.0, 6.0, 7.0])
    step = make_step(PROCESS, linear, SGD, objective=objective, times=times.uniform(low=0.4, high=0.6))
    grads, metrics = gradient(jit(step), state_of({"w": jnp.ones(2)}), {"x0": jnp.zeros((4, 2)), "value": value})
    assert set(metrics) == {"loss", "square", "time", "grad_norm"}
    close([metrics["loss"], metrics["square"], grads["w"]], [8.0, 22.5, jnp.full(2, 4.0)])
    close(metrics["grad_norm"], 4 * np.sqrt(2))
    assert 0.4 < metrics["time"] < 0.6


@pytest.mark.parametrize("ema", [0.0, 0.3, 0.999, jnp.float32(0.3)])
def test_the_average_follows_its_decay(ema):
    """ema <- decay ema + (1 - decay) params, decay = min(ema, (1 + n) / (10 + n)) after n updates."""
    step, state = jit(make_step(PROCESS, linear, optax.adam(0.1), ema=ema)), state_of(LINEAR, optax.adam(0.1))
    expected = {k: np.asarray(v, np.float64) for k, v in LINEAR.items()}
    for n in range(8):
        state, _ = step(state, jax.random.key(0), examples())
        decay = min(float(ema), (1 + n) / (10 + n))
        expected = {k: decay * expected[k] + (1 - decay) * np.asarray(state.params[k], np.float64) for k in expected}
        close(state.ema, expected)
        assert int(state.step) == n + 1
    assert np.abs(expected["w"] - state.params["w"]).max() > 1e-3 or ema == 0


@pytest.mark.parametrize("shape", [(4, 2), (4, 1), (4,)])
def test_observed_elements_are_given_and_do_not_count(shape):
    observed = jax.random.bernoulli(jax.random.key(5), 0.5, shape).at[0].set(True).at[1].set(False)
    everywhere = jnp.broadcast_to(observed.reshape(shape + (1,) * (2 - len(shape))), (4, 2))
    keys, t = jax.random.split(jax.random.key(1), 4), jnp.linspace(0.2, 0.8, 4)
    batch, calls = {"x0": examples(4)["x0"], "observed": observed}, []

    def apply(params, x, t, cond=None, *, key=None):
        calls.append((x, t))
        return jnp.where(everywhere, params, 0.5 * x)

    objective, losses = denoising(PROCESS), []
    for junk in (0.0, 1e3):
        loss, metrics = objective(apply, jnp.float32(junk), {}, keys, batch, t)
        losses.append(loss)
        np.testing.assert_array_equal(metrics["error"], loss)  # weight 1
    x, clock = calls[0]
    np.testing.assert_array_equal(losses[0], losses[1])  # the output at observed elements is not looked at
    np.testing.assert_array_equal(jnp.where(everywhere, x, 0), jnp.where(everywhere, batch["x0"], 0))
    assert (x != batch["x0"])[~everywhere].all()
    assert clock.shape == shape
    np.testing.assert_array_equal(clock, jnp.where(observed, 0, t.reshape(4, *[1] * (len(shape) - 1))))

    # The mean is over the other elements alone, of the error that the whole example would have there.
    calls.clear()
    objective(lambda *a, **k: calls.append(a[1]) or 0 * a[1], {}, {}, keys, {"x0": batch["x0"]}, t)
    noisy = calls[0]
    alpha, sigma = (a[:, None] for a in PROCESS.schedule(t))
    v = alpha * (noisy - alpha * batch["x0"]) / sigma - sigma * batch["x0"]
    error = jnp.where(everywhere, 0, (0.5 * noisy - v) ** 2).sum(1) / jnp.maximum((~everywhere).sum(1), 1)
    close(losses[0], error, rtol=1e-4)
    assert losses[0][0] == 0  # nothing to predict


@pytest.mark.parametrize(("rate", "null"), [(0.0, 3), (0.25, 3), (1.0, 3), (0.0, None)])
def test_conditions_are_dropped_at_their_rate(rate, null):
    size, seen = 4000, []
    objective = denoising(PROCESS, null_cond=null if null is None else jnp.int32(null), cond_dropout=rate)
    apply = lambda params, x, t, cond=None, *, key=None: seen.append(cond) or x
    batch = {"x0": jnp.zeros((size, 2)), "cond": jnp.arange(size) % 3}
    objective(apply, {}, {}, jax.random.split(jax.random.key(0), size), batch, jnp.full(size, 0.5))
    dropped = np.asarray(seen[0] == 3)
    assert seen[0].dtype == batch["cond"].dtype
    np.testing.assert_array_equal(seen[0][~dropped], batch["cond"][~dropped])
    assert abs(dropped.mean() - rate) <= 4 * np.sqrt(rate * (1 - rate) / size)


def test_a_tree_of_conditions_is_dropped_as_one():
    size, seen = 64, []
    cond = {"label": jnp.arange(size), "text": jnp.ones((size, 5))}
    objective = denoising(PROCESS, null_cond={"label": jnp.int32(-1), "text": jnp.zeros(5)}, cond_dropout=0.5)
    apply = lambda params, x, t, cond=None, *, key=None: seen.append(cond) or x
    keys = jax.random.split(jax.random.key(0), size)
    objective(apply, {}, {}, keys, {"x0": jnp.zeros((size, 2)), "cond": cond}, jnp.full(size, 0.5))
    dropped = seen[0]["label"] == -1
    assert 0.2 < dropped.mean() < 0.8
    np.testing.assert_array_equal(seen[0]["text"], jnp.where(dropped[:, None], 0.0, cond["text"]))


def test_dropout_noise_and_condition_use_different_keys():
    """One example's three streams are independent of one another, and equal in every copy of its key."""
    seen = []
    apply = lambda params, x, t, cond=None, *, key=None: seen.append((x, key)) or x
    keys = jnp.stack([jax.random.key(4)] * 2)
    denoising(PROCESS)(apply, {}, {}, keys, {"x0": jnp.zeros((2, 2))}, jnp.full(2, 0.5))
    (x, dropout), _ = seen[0], None
    np.testing.assert_array_equal(x[0], x[1])
    assert dropout[0] == dropout[1]
    noise = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, 0), (2,)))(dropout)
    assert not np.isclose(noise, x / PROCESS.schedule(0.5)[1]).any()


@pytest.mark.parametrize("weighting", [weights.eps(), weights.min_snr(), weights.edm()], ids=["eps", "min_snr", "edm"])
def test_the_weighting_multiplies_the_error(weighting):
    """loss = mean of w(t) * error, example by example, with the times that the step drew; `error` stays unweighted."""
    drawn = []

    def spy(key, index, size):
        drawn.append(times.uniform()(key, index, size))
        return drawn[-1]

    state, batch = state_of(LINEAR), examples()
    run = lambda weighting, part: make_step(PROCESS, linear, SGD, weighting=weighting, times=spy)(
        state, jax.random.key(0), part
    )[1]
    for i in range(3):  # one example at a time: the plain metric `error` is then that example's
        plain, weighted = (run(w, take(batch, slice(i, i + 1))) for w in (None, weighting))
        w = weighting(PROCESS.schedule, drawn[2 * i])[0]
        close(weighted["loss"], w * plain["error"])
        close(weighted["error"], plain["error"])
        assert abs(w - 1) > 1e-3
    keys = jax.random.split(jax.random.key(3), 16)
    t = jnp.linspace(0.05, 0.95, 16)
    error = denoising(PROCESS)(linear, LINEAR, LINEAR, keys, batch, t)[0]
    close(
        denoising(PROCESS, weighting=weighting)(linear, LINEAR, LINEAR, keys, batch, t)[0],
        weighting(PROCESS.schedule, t) * error,
    )


def test_the_loss_is_the_same_for_every_prediction():
    """A network that says the same thing in another prediction space has the same loss."""
    keys, t, batch = jax.random.split(jax.random.key(3), 16), jnp.linspace(0.05, 0.95, 16), examples()
    losses = []
    for prediction in (predictions.v(), predictions.x0(), predictions.edm()):
        process = Gaussian(schedule=schedules.LinearBeta(), prediction=prediction)
        c = process.inputs(jnp.ones((16, 1)), t)

        def apply(params, x, t, cond=None, *, key=None, process=process, c=c):
            x_t = x / c
            a, b = (a[:, None] for a in process.prediction(process.schedule, t))
            alpha, sigma = (a[:, None] for a in process.schedule(t))
            return a * 0.4 * x_t + b * (x_t - alpha * 0.4 * x_t) / sigma  # x0 = 0.4 x_t in every space

        losses.append(denoising(process)(apply, {}, {}, keys, batch, t)[0])
    close(losses[1:], [losses[0]] * 2, rtol=1e-3)


def test_an_objective_of_ones_own():
    """It gets the network, both sets of parameters, keys, batch and times; consistency training is such a one."""
    seen = []

    def objective(apply, params, ema, keys, batch, t):
        seen.append((apply, ema, keys.shape, set(batch), t.shape))
        return ((params["w"] - 2 * ema["w"]) ** 2).sum() * jnp.ones_like(t), {}

    state = state_of(LINEAR)
    grads, metrics = gradient(make_step(PROCESS, linear, SGD, objective=objective), state, examples(4))
    assert seen[0][0] is linear and seen[0][2:] == ((4,), {"x0", "cond", "index"}, (4,))
    close(grads, {"w": -2 * LINEAR["w"], "b": jnp.zeros(2)})  # the average is a constant
    assert set(metrics) == {"loss", "grad_norm"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": denoising(PROCESS), "weighting": weights.v()}, "own objective"),
        ({"objective": denoising(PROCESS), "null_cond": jnp.int32(3)}, "own objective"),
        ({"objective": denoising(PROCESS), "cond_dropout": 0.1}, "own objective"),
        ({"cond_dropout": 0.1}, "needs the null_cond"),
    ],
)
def test_arguments_that_nothing_would_read_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_step(PROCESS, linear, SGD, **options)


def test_a_null_condition_of_another_structure_is_refused():
    step = make_step(PROCESS, linear, SGD, null_cond=jnp.int32(3), cond_dropout=0.1)
    with pytest.raises(ValueError, match="structure"):
        step(state_of(LINEAR), jax.random.key(0), {"x0": jnp.zeros((4, 2))})


def test_one_trace_serves_a_run():
    traces = []

    def apply(params, x, t, cond=None, *, key=None):
        traces.append(1)
        return linear(params, x, t)

    step, state = jit(make_step(PROCESS, apply, optax.adam(1e-2))), state_of(LINEAR, optax.adam(1e-2))
    for i in range(20):
        state, _ = step(state, jax.random.key(0), examples(first=16 * i))
    assert len(traces) == 1 and int(state.step) == 20


@pytest.mark.parametrize("compiled", [False, True])
def test_the_step_is_pure(compiled):
    step = make_step(PROCESS, linear, optax.adam(1e-2))
    step = jit(step) if compiled else step
    arguments = state_of(LINEAR, optax.adam(1e-2)), jax.random.key(0), examples()
    before = jax.tree.map(lambda a: np.array(a if a.dtype != jax.random.key(0).dtype else 0), arguments)
    results = [step(*arguments) for _ in range(2)]
    after = jax.tree.map(lambda a: np.array(a if a.dtype != jax.random.key(0).dtype else 0), arguments)
    jax.tree.map(np.testing.assert_array_equal, after, before)
    jax.tree.map(np.testing.assert_array_equal, *results)
    assert jax.tree.structure(results[0][0]) == jax.tree.structure(arguments[0])


def test_a_donated_state_gives_the_same_run():
    """Also from the very first state: its average is a copy of the parameters, not the same buffer."""
    step = make_step(PROCESS, linear, optax.adam(1e-2))
    runs = []
    for options in ({}, {"donate_argnums": 0}):
        update, state = jit(step, **options), state_of(jax.tree.map(jnp.copy, LINEAR), optax.adam(1e-2))
        for _ in range(3):
            old, (state, _) = state, update(state, jax.random.key(0), examples())
        assert old.params["w"].is_deleted() == bool(options)
        runs.append(state)
    jax.tree.map(np.testing.assert_array_equal, *runs)


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x, t, cond=None, *, key=None):
        h = jnp.concatenate([x, t[:, None]], 1)
        return linen.Dense(2)(linen.silu(linen.Dense(8)(h)))


def test_a_linen_module_serves_as_the_network():
    module, batch, optimizer = Linen(), examples(64), optax.adam(3e-2)
    state = state_of(module.init(jax.random.key(0), batch["x0"], jnp.zeros(64)), optimizer)
    keys, t = jax.random.split(jax.random.key(1), 64), jnp.linspace(0.01, 0.99, 64)
    error = lambda params: float(denoising(PROCESS)(module.apply, params, params, keys, batch, t)[0].mean())
    before, step = error(state.params), jit(make_step(PROCESS, module.apply, optimizer))
    for _ in range(100):
        state, _ = step(state, jax.random.key(0), batch)
    assert error(state.params) < 0.94 * before
    denoise = PROCESS.denoiser(jax.tree_util.Partial(module.apply, state.ema))
    assert denoise(batch["x0"], jnp.full(64, 0.5)).shape == (64, 2)


def test_training_finds_the_exact_denoiser():
    """A small network on the mixture: near the Bayes error, far from its start, and its samples have the moments."""
    law, steps, size = mixture(), 600, 256
    init, apply = networks.functional(lambda rngs: networks.MLP((2,), width=64, depth=2, rngs=rngs))
    optimizer = optax.adam(optax.cosine_decay_schedule(4e-3, steps))
    step = make_step(PROCESS, apply, optimizer, ema=0.98)

    @jit
    def train(state):
        def body(state, i):
            x0 = law.sample(jax.random.fold_in(jax.random.key(1), i), size)
            return step(state, jax.random.key(2), {"x0": x0, "index": i * size + jnp.arange(size)})

        return jax.lax.scan(body, state, jnp.arange(steps))[0]

    def exact(params, x, t, cond=None, *, key=None):
        alpha, sigma = (a[:, None] for a in PROCESS.schedule(t))
        x0 = law.denoise(x, PROCESS.schedule, t)
        return alpha * (x - alpha * x0) / sigma - sigma * x0

    fresh = {"x0": law.sample(jax.random.key(3), 8192)}
    keys, t = jax.random.split(jax.random.key(4), 8192), times.uniform()(jax.random.key(5), jnp.arange(8192), 8192)
    loss = jit(lambda apply, params: denoising(PROCESS)(apply, params, params, keys, fresh, t)[0], static_argnums=0)
    error = lambda apply, params: float(loss(apply, params).mean())
    state = state_of(init(jax.random.key(0)), optimizer)
    start, state = error(apply, state.params), train(state)
    bayes, final = error(exact, {}), error(apply, state.ema)
    assert final < 1.01 * bayes
    assert final - bayes < 0.05 * (start - bayes)

    denoise = PROCESS.denoiser(jax.tree_util.Partial(apply, state.ema))
    x, _ = jit(functools.partial(sample, spec=jax.ShapeDtypeStruct((4000, 2), jnp.float32)))(
        jax.random.key(6), PROCESS, denoise, solvers.DPMpp2M(), grids.karras(PROCESS.schedule, 30, sigma_min=0.02)
    )
    data = law.sample(jax.random.key(7), 100_000)
    np.testing.assert_allclose(x.mean(0), data.mean(0), atol=0.1)
    np.testing.assert_allclose(np.cov(x.T), np.cov(data.T), atol=0.12)
