"""Training: one pure step from a state, a key and a batch to the next state and its metrics.

A batch is a dict: `x0` (B, ...) data; optional `cond`, a pytree with leading axis B; optional `observed`, a mask of
known elements, for nested data a pytree of a mask or None for each array; optional `index` (B,), each example's
position in the shuffled stream, its position in the batch by default. Every random number of an example is folded from
the key, the step and its index, so losses and noise do not depend on how the batch lies on devices and hosts.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from jaxdiff import averages as averaging
from jaxdiff import noise
from jaxdiff.processes import Nested
from jaxdiff.times import uniform
from jaxdiff.types import Condition, Params, Process, Scalar, Time, Times, Weighting, expand, pytree
from jaxdiff.weightings import v

Batch: TypeAlias = Mapping[str, Any]
Metrics: TypeAlias = dict[str, Float[Array, ""]]
Objective: TypeAlias = Callable[..., tuple[Float[Array, " B"], Metrics]]
Average: TypeAlias = Callable[[Int[Array, ""]], Float[Array, ""]]

_NOISE, _DROPOUT, _CONDITION = 0, 1, 2  # independent streams of an example's key


@pytree
class TrainState:
    """What training carries from step to step.

    Attributes:
        params: the network's parameters.
        ema: their moving average, what one samples with.
        averages: averages of other lengths, by the names that `make_step` has for them.
        opt_state: Optax's state; its own counters count updates.
        step: steps done so far, int32; a skipped one counts.
    """

    params: Params
    ema: Params
    averages: dict[str, Params]
    opt_state: Any
    step: Int[Array, ""]

    @classmethod
    def create(
        cls, params: Params, optimizer: optax.GradientTransformation, averages: Iterable[str] = ()
    ) -> "TrainState":
        """A fresh state; the averages start at the parameters (copies: the state may be donated).

        Args:
            params: the network's parameters.
            optimizer: the transformation that `make_step` gets.
            averages: names of the averages kept beside `ema`.
        """
        copy = lambda: jax.tree.map(lambda p: jnp.array(p, copy=True), params)
        return cls(
            params=params,
            ema=copy(),
            averages={name: copy() for name in averages},
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
        ValueError: `cond_dropout` without `null_cond`; a weighting other than `v` for `Nested`; at the call, a `cond`
            of another structure than `null_cond`, or `observed` of another structure than `x0`.
    """
    if null_cond is None and not _is_zero(cond_dropout):
        raise ValueError(
            f"cond_dropout = {cond_dropout} needs the null_cond that stands in for a dropped condition, got None; "
            "pass for instance null_cond = number of classes"
        )
    weighting = v() if weighting is None else weighting
    if isinstance(process, Nested) and not isinstance(weighting, v):
        raise ValueError(
            f"a weighting depends on the schedule, and the parts of Nested have their own, got {weighting!r}; weigh "
            "the parts by Nested(parts, weights=...) and leave weighting out, or give make_step your own objective"
        )

    def objective(apply, params, ema, keys, batch, t):
        x0, cond, observed = batch["x0"], batch.get("cond"), batch.get("observed")
        x_t, target = process.corrupt(noise.fold(keys, _NOISE), x0, t)
        clock, where = t, None
        if observed is not None:
            x_t, clock, where = _put_in(observed, x0, x_t, t)
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
    ema: Scalar | Average = 0.999,
    averages: Mapping[str, Average] | None = None,
    null_cond: Condition = None,
    cond_dropout: Scalar = 0.0,
    objective: Objective | None = None,
    accumulate: int = 1,
    skip_nonfinite: bool = False,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """The pure training step `step(state, key, batch, *, axis_name=None) -> (state, metrics)`, for `jax.jit`.

    Args:
        process: what the data are and how they become noise.
        apply: the network, `apply(params, x_t, t, cond, key=keys)`.
        optimizer: an Optax transformation, learning rate included.
        times: law of the training times; uniform and stratified by default.
        weighting, null_cond, cond_dropout: see `denoising`.
        ema: one of `jaxdiff.averages`, or a decay in [0, 1) for `averages.exponential`.
        averages: more of them by name, of other lengths; the state must have been created with the same names.
        objective: replaces `denoising`; `(apply, params, ema, keys, batch, t) -> (loss (B,), metrics of (B,))`.
        accumulate: parts in which a batch goes through the network one after the other, for less memory: the same
            gradient and one update. Divides the batch, of each device under `axis_name`.
        skip_nonfinite: leave parameters, averages and optimiser as they are when the loss or the gradient is not
            finite, and say so in the metric `skipped`.

    Returns:
        The step. `key` is the run's key, the same in every call. With `axis_name` (inside `pmap` or `shard_map`) sums
        and counts are added over the axis, so the result is that of the whole batch. Metrics are means over the batch:
        `loss`, `error` (the unweighted loss), `grad_norm`.

    Raises:
        ValueError: `objective` was given together with arguments that only the default objective reads, or those of
            `denoising`; at the call, a batch that `accumulate` does not divide, or a state with
            other averages.
    """
    times = uniform() if times is None else times
    average = ema if callable(ema) else averaging.exponential(decay=ema)
    more = dict(averages or {})
    if accumulate < 1:
        raise ValueError(f"accumulate must be at least 1, got {accumulate}; 1 takes the batch as a whole")
    if objective is None:
        objective = denoising(process, weighting=weighting, null_cond=null_cond, cond_dropout=cond_dropout)
    elif weighting is not None or null_cond is not None or not _is_zero(cond_dropout):
        raise ValueError(
            "weighting, null_cond and cond_dropout belong to the default objective; give them to your own objective"
        )

    def step(state: TrainState, key: Key[Array, ""], batch: Batch, *, axis_name: str | None = None):
        if state.averages.keys() != more.keys():
            raise ValueError(
                f"the state keeps the averages {sorted(state.averages)}, the step those of {sorted(more)}; "
                "create the state with the step's names"
            )
        size = jax.tree.leaves(batch["x0"])[0].shape[0]
        devices = 1 if axis_name is None else jax.lax.psum(1, axis_name)
        first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * size
        index = batch["index"] if "index" in batch else first + jnp.arange(size)
        key_t, key_x = jax.random.split(jax.random.fold_in(key, state.step))
        t = times(key_t, index, size * devices)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key_x, index)

        def total(params, keys, batch, t):
            loss, metrics = objective(apply, params, state.ema, keys, batch, t)
            return loss.sum(), jax.tree.map(jnp.sum, {"loss": loss, **metrics})

        sums = _summed(jax.grad(total, has_aux=True), accumulate, state.params, keys, batch, t)
        if axis_name is not None:
            sums = jax.lax.psum(sums, axis_name)
        grads, metrics = jax.tree.map(lambda x: x / (size * devices), sums)
        metrics["grad_norm"] = optax.tree.norm(grads)

        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        follow = lambda average, tree: averaging.update(average, tree, params, state.step)
        new = TrainState(
            params=params,
            ema=follow(average, state.ema),
            averages={name: follow(average, state.averages[name]) for name, average in more.items()},
            opt_state=opt_state,
            step=state.step + 1,
        )
        if skip_nonfinite:
            fine = jnp.isfinite(metrics["grad_norm"]) & jnp.isfinite(metrics["loss"])
            old = dataclasses.replace(state, step=new.step)
            new = jax.tree.map(lambda a, b: jnp.where(fine, a, b), new, old)
            metrics["skipped"] = 1.0 - fine
        return new, metrics

    return step


def several(step: Callable[..., tuple[Any, Metrics]]) -> Callable[..., tuple[Any, Metrics]]:
    """`step` over a stack of batches in one dispatch: `(state, key, batches, *, axis_name=None) -> (state, metrics)`.

    The leaves of `batches` have shape (steps, B, ...) and those of the metrics (steps,). The same numbers as `step` in
    a loop, without Python between the steps.
    """

    def steps(state: Any, key: Key[Array, ""], batches: Batch, *, axis_name: str | None = None):
        return jax.lax.scan(lambda state, batch: step(state, key, batch, axis_name=axis_name), state, batches)

    return steps


def _summed(gradient: Callable[..., Any], parts: int, params: Params, *rows: Any) -> Any:
    """`gradient(params, *rows)`, the sum over a batch, from `parts` of it one after the other."""
    if parts == 1:
        return gradient(params, *rows)
    size = jax.tree.leaves(rows)[0].shape[0]
    if size % parts:
        raise ValueError(f"accumulate = {parts} must divide the batch of each device, got {size} examples")
    # Part j takes the rows j, j + parts, ...: a batch that lies on several devices stays where it is.
    split = lambda x: x.reshape((size // parts, parts, *x.shape[1:])).swapaxes(0, 1)
    rows = jax.tree.map(split, rows)
    shapes = jax.eval_shape(gradient, params, *jax.tree.map(lambda x: x[0], rows))
    add = lambda sums, part: (jax.tree.map(jnp.add, sums, gradient(params, *part)), None)
    return jax.lax.scan(add, jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes), rows)[0]


def _put_in(observed: Any, x0: Any, x_t: Any, t: Time) -> tuple[Any, Any, Any]:
    """The known elements in place of noisy ones, the network's clock, and the elements that count."""
    is_none = lambda node: node is None  # of a part of which nothing is known
    if jax.tree.structure(observed, is_leaf=is_none) != jax.tree.structure(x0):
        raise ValueError(
            f"observed must have the structure of x0, {jax.tree.structure(x0)}, with a mask or None for each array, "
            f"got {jax.tree.structure(observed)}"
        )
    each = lambda function, *trees: jax.tree.map(function, observed, *trees, is_leaf=is_none)
    noisy = lambda mask, x0, x_t: x_t if mask is None else jnp.where(expand(mask, x_t), x0, x_t)
    clock = lambda mask: t if mask is None else jnp.where(mask, 0.0, expand(t, mask))
    return each(noisy, x0, x_t), each(clock), each(lambda mask: None if mask is None else ~mask)


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
