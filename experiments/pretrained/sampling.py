"""Samples of a pretrained model, with any solver and grid of the library."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

import jaxdiff
from experiments.errors import UserError
from experiments.pretrained.scheduler import Scheduler
from experiments.recipe import Sampler
from jaxdiff import guidance, networks
from jaxdiff.types import Denoiser, Params


def built(make: Callable[[nnx.Rngs], nnx.Module]) -> Any:
    """The module without its parameters, for its `shape` and `num_classes`."""
    return nnx.eval_shape(lambda: make(nnx.Rngs(0)))


def denoiser(make: Callable[[nnx.Rngs], nnx.Module], params: Params, scheduler: Scheduler) -> Denoiser:
    """The denoiser of a pretrained model, `(x, t, cond) -> x0`, clipped where the scheduler clips.

    Of a model that learned the variance of its steps too, the first half of the channels counts: the mean.
    """
    _, apply = networks.functional(make)

    def mean(params: Params, x: Array, t: Array, cond: Array | None = None) -> Array:
        return apply(params, x, t, cond)[..., : x.shape[-1]]

    params = networks.in_compute_dtype(make)(params)
    denoise = scheduler.process.denoiser(jax.tree_util.Partial(mean, params))
    # The smallest magnitude is the quantile of 0, so that all that is left is to clip.
    return denoise if scheduler.limit is None else guidance.dynamic_threshold(denoise, 0.0, scheduler.limit)


def draw(
    make: Callable[[nnx.Rngs], nnx.Module],
    params: Params,
    scheduler: Scheduler,
    *,
    sampler: Sampler,
    labels: np.ndarray | None,
    count: int,
    seed: int = 0,
    batch_size: int = 64,
) -> tuple[np.ndarray, int]:
    """Samples (count, H, W, C) as the network has them, and network evaluations for each.

    Args:
        make, params, scheduler: what `pretrained.load` and `scheduler.load` give.
        sampler: solver, grid and guidance.
        labels: integer classes (count,); None for a model without.
        seed: sample i depends on it and on i alone, whatever `batch_size`.

    Raises:
        UserError: labels for a model without, or none for one with classes; guidance without a null label.
    """
    module = built(make)
    shape, classes = module.shape, module.num_classes
    if (labels is None) == (classes > 0):
        raise UserError(f"the model has {classes} classes: give {'labels in their range' if classes else 'no labels'}")
    if labels is not None and not ((labels >= 0) & (labels < classes)).all():
        raise UserError(f"labels must lie in [0, {classes}), got {labels.min()} to {labels.max()}")
    denoise, evaluations = denoiser(make, params, scheduler), 1
    guided = sampler.guidance_scale != 1
    if guided and not isinstance(module, networks.DiT):
        raise UserError(
            f"a guidance scale of {sampler.guidance_scale:g} needs a null label, which the model has not; use 1"
        )
    sample, chunks, nfe = jax.jit(jaxdiff.sample, static_argnames=("spec",)), [], 0
    batch_size = min(batch_size, count)
    for first in range(0, count, batch_size):
        index = np.arange(first, first + batch_size) % count  # the last batch is filled up: one compilation
        now = denoise
        if labels is not None and guided:
            rule = guidance.scale(scale=jnp.float32(sampler.guidance_scale))
            now, evaluations = guidance.classifier_free(denoise, labels[index], jnp.int32(classes), rule), 2
        elif labels is not None:
            now = guidance.condition(denoise, labels[index])
        x, info = sample(
            jax.random.key(seed),
            scheduler.process,
            now,
            sampler.solver,
            sampler.times(scheduler.process.schedule),
            spec=jax.ShapeDtypeStruct((batch_size, *shape), jnp.float32),
            first=first,
        )
        chunks.append(np.asarray(x)[: count - first])
        nfe = int(info.nfe) * evaluations
    return np.concatenate(chunks), nfe
