"""Training: one pure step from a state, a key and a batch to the next state and its metrics.

A batch is a dict: `x0` (B, ...) data; optional `cond`, a pytree with leading axis B; optional `observed`, a mask of
known elements; optional `index` (B,), each example's position in the shuffled stream, its position in the batch by
default. Every random number of an example is folded from the key, the step and its index, so losses and noise do not
depend on how the batch lies on devices and hosts.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from jaxdiff import noise
from jaxdiff.times import uniform
from jaxdiff.types import Condition, Params, Process, Scalar, Times, Weighting, expand, pytree
from jaxdiff.weightings import v

Batch: TypeAlias = Mapping[str, Any]
Metrics: TypeAlias = dict[str, Float[Array, ""]]
Objective: TypeAlias = Callable[..., tuple[Float[Array, " B"], Metrics]]

_NOISE, _DROPOUT, _CONDITION = 0, 1, 2  # independent streams of an example's key


@pytree
class TrainState:
    """What training carries from step to step.

    Attributes:
        params: the network's parameters.
        ema: their exponential moving average, what one samples with.
        opt_state: Optax's state.
        step: optimiser updates done so far, int32.
    """

    params: Params
    ema: Params
    opt_state: Any
    step: Int[Array, ""]

    @classmethod
    def create(cls, params: Params, optimizer: optax.GradientTransformation) -> "TrainState":
        """A fresh state; the average starts at the parameters (a copy: the state may be donated)."""
        return cls(
            params=params,
            ema=jax.tree.map(lambda p: jnp.array(p, copy=True), params),
            opt_state=optimizer.init(params),
            step=jnp.zeros((), jnp.int32),
        )


def denoising(
    process: Process, *, weighting: Weighting | None = None, null_cond: Condition = None, cond_dropout: Scalar = 0.0
) -> Objective:
    """The denoising objective weight(t) * process.loss: the default of `make_step`.

    Args:
        process: corrupts the data and measures the error.
        weighting: relative to the squared error of v; 1 by default.
        null_cond: the null value of the condition, a pytree like one example's `cond`; an example gets it with
            probability `cond_dropout`, which is what classifier-free guidance needs (arXiv 2207.12598, alg. 1).
        cond_dropout: in [0, 1].

    Returns:
        `objective(apply, params, ema, keys, batch, t) -> (loss per example, metrics per example)`.

    Raises:
        ValueError: `cond_dropout` without `null_cond`; at the call, a `cond` of another structure than `null_cond`.
    """
    if null_cond is None and not _is_zero(cond_dropout):
        raise ValueError(
            f"cond_dropout = {cond_dropout} needs the null_cond that stands in for a dropped condition, got None; "
            "pass for instance null_cond = number of classes"
        )
    weighting = v() if weighting is None else weighting

    def objective(apply, params, ema, keys, batch, t):
        x0, cond, observed = batch["x0"], batch.get("cond"), batch.get("observed")
        x_t, target = process.corrupt(noise.fold(keys, _NOISE), x0, t)
        clock, where = t, None
        if observed is not None:
            x_t, where = jnp.where(expand(observed, x_t), x0, x_t), ~observed
            clock = jnp.where(observed, 0.0, expand(t, observed))
        if null_cond is not None:
            cond = _drop(noise.fold(keys, _CONDITION), cond, null_cond, cond_dropout)
        output = apply(params, process.inputs(x_t, clock), clock, cond, key=noise.fold(keys, _DROPOUT))
        error = process.loss(output, x_t, target, clock, where)
        return weighting(process.schedule, t) * error, {"error": error}

    return objective


def make_step(
    process: Process,
    apply: Callable[..., Any],
    optimizer: optax.GradientTransformation,
    *,
    times: Times | None = None,
    weighting: Weighting | None = None,
    ema: Scalar = 0.999,
    null_cond: Condition = None,
    cond_dropout: Scalar = 0.0,
    objective: Objective | None = None,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """The pure training step `step(state, key, batch, *, axis_name=None) -> (state, metrics)`, for `jax.jit`.

    Args:
        process: what the data are and how they become noise.
        apply: the network, `apply(params, x_t, t, cond, key=keys)`.
        optimizer: an Optax transformation, learning rate included.
        times: law of the training times; uniform and stratified by default.
        weighting, null_cond, cond_dropout: see `denoising`.
        ema: decay of the average, in [0, 1); it grows as (1 + step) / (10 + step) until it gets there.
        objective: replaces `denoising`; `(apply, params, ema, keys, batch, t) -> (loss (B,), metrics of (B,))`.

    Returns:
        The step. `key` is the run's key, the same in every call. With `axis_name` (inside `pmap` or `shard_map`) sums
        and counts are added over the axis, so the result is that of the whole batch. Metrics are means over the batch:
        `loss`, `error` (the unweighted loss), `grad_norm`.

    Raises:
        ValueError: `objective` was given together with arguments that only the default objective reads, or
            `cond_dropout` without `null_cond`.
    """
    times = uniform() if times is None else times
    if objective is None:
        objective = denoising(process, weighting=weighting, null_cond=null_cond, cond_dropout=cond_dropout)
    elif weighting is not None or null_cond is not None or not _is_zero(cond_dropout):
        raise ValueError(
            "weighting, null_cond and cond_dropout belong to the default objective; give them to your own objective"
        )

    def step(state: TrainState, key: Key[Array, ""], batch: Batch, *, axis_name: str | None = None):
        size = jax.tree.leaves(batch["x0"])[0].shape[0]
        devices = 1 if axis_name is None else jax.lax.psum(1, axis_name)
        first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * size
        index = batch["index"] if "index" in batch else first + jnp.arange(size)
        key_t, key_x = jax.random.split(jax.random.fold_in(key, state.step))
        t = times(key_t, index, size * devices)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key_x, index)

        def total(params):
            loss, metrics = objective(apply, params, state.ema, keys, batch, t)
            return loss.sum(), jax.tree.map(jnp.sum, {"loss": loss, **metrics})

        grads, sums = jax.grad(total, has_aux=True)(state.params)
        if axis_name is not None:
            grads, sums = jax.lax.psum((grads, sums), axis_name)
        grads, metrics = jax.tree.map(lambda x: x / (size * devices), (grads, sums))

        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        count = state.step.astype(jnp.float32)
        decay = jnp.minimum(ema, (1 + count) / (10 + count))
        averaged = jax.tree.map(lambda e, p: e + (1 - decay).astype(e.dtype) * (p - e), state.ema, params)
        metrics["grad_norm"] = optax.tree.norm(grads)
        return TrainState(params=params, ema=averaged, opt_state=opt_state, step=state.step + 1), metrics

    return step


def _drop(keys: Key[Array, " B"], cond: Condition, null_cond: Condition, rate: Scalar) -> Condition:
    """The null condition in place of each example's own, with probability `rate`."""
    if jax.tree.structure(cond) != jax.tree.structure(null_cond):
        raise ValueError(
            f"null_cond must have the structure of the batch's cond, {jax.tree.structure(cond)}, got "
            f"{jax.tree.structure(null_cond)}; it holds the null value of each condition"
        )
    dropped = jax.vmap(lambda key: jax.random.bernoulli(key, rate))(keys)
    return jax.tree.map(
        lambda c, null: jnp.where(dropped.reshape((-1,) + (1,) * (c.ndim - 1)), null, c), cond, null_cond
    )


def _is_zero(rate: Scalar) -> bool:
    """Whether a rate is known to be zero; a traced one is not."""
    return isinstance(rate, (int, float, np.generic)) and rate == 0
