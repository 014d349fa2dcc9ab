"""Options of the training step: parts of a batch, several steps at once, averages, steps that are left out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_steps import (
    ARGUMENTS,
    LINEAR,
    PROCESS,
    SGD,
    close,
    examples,
    gradient,
    jit,
    linear,
    mlp,
    noisy_step,
    state_of,
)

from jaxdiff import TrainState, averages, make_step
from jaxdiff.training import several


@pytest.mark.parametrize("parts", [2, 4, 16])
def test_a_batch_in_parts_gives_the_same_step(parts):
    """Losses, gradient and update of the whole batch, with dropout and dropped conditions on."""
    step, state = noisy_step()
    _, apply = mlp(dropout=0.3, num_classes=3)
    options = {"null_cond": jnp.int32(3), "cond_dropout": 0.3}
    accumulated = jit(make_step(PROCESS, apply, SGD, **options, accumulate=parts))
    close(gradient(accumulated, state, examples()), gradient(step, state, examples()))


def test_several_steps_are_those_of_a_loop():
    step, state = make_step(PROCESS, linear, optax.adam(1e-2)), state_of(LINEAR, optax.adam(1e-2))
    batches = [examples(first=16 * i) for i in range(5)]
    looped, rows = state, []
    for batch in batches:
        looped, metrics = jit(step)(looped, jax.random.key(0), batch)
        rows.append(metrics)
    stack = lambda *leaves: jnp.stack(leaves)
    once, columns = jit(several(step))(state, jax.random.key(0), jax.tree.map(stack, *batches))
    close(once, looped)
    close(columns, jax.tree.map(stack, *rows))


def test_averages_of_several_lengths_are_kept_at_once():
    kept = {"short": averages.power.of_width(0.05), "long": averages.power.of_width(0.2)}
    step = jit(make_step(PROCESS, linear, optax.adam(0.1), ema=averages.exponential(decay=0.5), averages=kept))
    state = TrainState.create(LINEAR, optax.adam(0.1), kept)
    expected = dict.fromkeys(kept, LINEAR)
    for n in range(6):
        state, _ = step(state, jax.random.key(0), examples())
        expected = {name: averages.update(kept[name], expected[name], state.params, n) for name in kept}
        close(state.averages, expected)
    plain = jit(make_step(PROCESS, linear, optax.adam(0.1), ema=0.5))(state_of(LINEAR, optax.adam(0.1)), *ARGUMENTS)
    named = step(TrainState.create(LINEAR, optax.adam(0.1), kept), *ARGUMENTS)
    close(named[0].ema, plain[0].ema)


@pytest.mark.parametrize("bad", ["x0", "params"])
def test_a_step_that_is_not_finite_is_left_out(bad):
    """Parameters, averages and the optimiser's count stay; the step counts, so that the next draws other noise."""
    kept = {"long": averages.power.of_width(0.2)}
    step = jit(make_step(PROCESS, linear, optax.adam(0.1), averages=kept, skip_nonfinite=True))
    state, metrics = step(TrainState.create(LINEAR, optax.adam(0.1), kept), *ARGUMENTS)
    assert metrics["skipped"] == 0
    batch = examples()
    if bad == "x0":
        batch["x0"] = batch["x0"].at[3, 1].set(jnp.nan)
        after, metrics = step(state, jax.random.key(0), batch)
        assert metrics["skipped"] == 1 and not jnp.isfinite(metrics["loss"])
    else:
        huge = TrainState(**{**vars(state), "params": {**state.params, "w": jnp.full(2, 3e38)}})
        after, metrics = step(huge, jax.random.key(0), batch)
        assert metrics["skipped"] == 1
        state = huge
    assert int(after.step) == int(state.step) + 1
    jax.tree.map(np.testing.assert_array_equal, after, TrainState(**{**vars(state), "step": after.step}))


@pytest.mark.parametrize(
    ("options", "size", "message"),
    [
        ({"accumulate": 0}, 16, "accumulate must be at least 1"),
        ({"accumulate": 3}, 16, "accumulate = 3 must divide the batch of each device, got 16"),
        ({"averages": {"long": averages.exponential()}}, 16, r"the state keeps the averages \[\]"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, size, message):
    with pytest.raises(ValueError, match=message):
        make_step(PROCESS, linear, SGD, **options)(state_of(LINEAR), jax.random.key(0), examples(size))
