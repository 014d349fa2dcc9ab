"""A model: the objects of a recipe once the data are known, and parameters to draw samples with."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxdiff
from experiments.conditions import Residual
from experiments.data import to_pixels
from experiments.data.levels import from_levels
from experiments.errors import UserError
from experiments.info import DataInfo as DataInfo  # config.json of a run names it here
from experiments.networks import About, Autoencoder
from experiments.recipe import Recipe, Sampler
from jaxdiff import (
    TrainState,
    autoencoding,
    averages,
    conditioning,
    grids,
    guidance,
    networks,
    parallel,
    solvers,
    training,
    uncertainty,
)
from jaxdiff.processes import CachedDenoiser


class Model:
    """A recipe's network, process and optimiser for one kind of data; its sampler is compiled once a batch shape.

    Args:
        codec: `experiments.latents.Codec`, what makes pictures of latents; with `info.latents`.
    """

    def __init__(self, recipe: Recipe, info: DataInfo, codec: Any = None):
        if (info.latents is None) != (codec is None):
            raise UserError("a model in latents needs their codec, and another has none; see experiments.latents")
        told = recipe.conditions
        info = info if told.label else dataclasses.replace(info, classes=())
        self.recipe, self.info, self.codec = recipe, info, codec
        self.process: Any = _process(recipe, info)
        process = self.process
        try:
            states = len(process.pi) if hasattr(process, "pi") else info.tokens
            known = told.features(info.shape, info.embedding)
            about = About(tokens=info.tokens, states=states, features=info.features, told=known)
            make = recipe.network.make(info.shape, len(info.classes), about)
            self.init, self.apply = networks.functional(make)
            self.cast = networks.in_compute_dtype(make)
            self._block: int | None = getattr(recipe.network, "block", None)
            self._cached = networks.cached(make) if self._block else None
        except ValueError as error:
            raise UserError(f"network {type(recipe.network).__name__} does not fit the data: {error}") from error
        self.optimizer = recipe.optimizer.build(recipe.steps)
        self._null, rate = told.null(len(info.classes), info.embedding), recipe.cond_dropout
        self._objective = training.denoising(
            process,
            weighting=recipe.weighting,
            null_cond=self._null,
            cond_dropout=0.0 if self._null is None or isinstance(self._null, dict) else rate,
        )
        self._objective = told.told(self._objective, self._null, rate)
        if isinstance(recipe.network, Autoencoder):
            _, self.encode, self.decode = networks.encoder_decoder(make)
            error = jnp.abs if recipe.network.error == "absolute" else jnp.square
            weight = recipe.network.kl_weight
            self._objective = autoencoding.reconstruction(self.encode, self.decode, kl_weight=weight, error=error)
        if self._block:
            self._objective = _given_the_past(self._objective)
        self._learned = uncertainty.learned(self._objective)
        self._sample = jax.jit(jaxdiff.sample, static_argnames=("spec", "trajectory", "record"))

    def fresh_state(self) -> TrainState:
        key = jax.random.key(self.recipe.seed)
        params = jax.jit(self.init)(key)
        if self.recipe.learned_weighting:
            params = self._learned[0](key, params)
        return TrainState.create(params, self.optimizer, map(str, self.recipe.averages))

    def step(self) -> Callable[..., Any]:
        """The recipe's training step, or several of them in one: `(state, key, batch) -> (state, metrics)`."""
        recipe = self.recipe
        step = jaxdiff.make_step(
            self.process,
            self.apply,
            self.optimizer,
            times=recipe.times,
            ema=recipe.ema,
            averages={str(length): averages.power.of_width(length) for length in recipe.averages},
            objective=self._learned[1] if recipe.learned_weighting else self._objective,
            accumulate=recipe.accumulate,
            skip_nonfinite=recipe.nonfinite == "skip",
        )
        rate = recipe.optimizer.rate(recipe.steps)

        def measured(state, key, batch, **axis):
            new, metrics = step(state, key, batch, **axis)
            # Optax counts the updates, from which a skipped step is missing.
            updates = optax.tree.get_all_with_path(state.opt_state, "count")[0][1]
            return new, metrics | {"learning_rate": jnp.asarray(rate(updates), jnp.float32)}

        return training.several(measured) if recipe.steps_per_dispatch > 1 else measured

    def network(self, params: Any) -> Any:
        """The network's own part of the state's parameters or of their average."""
        return params["network"] if self.recipe.learned_weighting else params

    def pixels(self, x: Any) -> np.ndarray:
        """Pictures as the process has them, real numbers, levels or latents, as uint8."""
        if self.codec is not None:
            return self.codec.decode(x)
        return from_levels(x, self.info.tokens) if self.info.tokens else to_pixels(x)

    def draw(
        self,
        params: Any,
        cond: Any,
        count: int,
        *,
        sampler: Sampler,
        seed: int = 0,
        batch_size: int = 512,
        trajectory: bool = False,
        devices: Sequence[jax.Device] | None = None,
        observed: tuple[np.ndarray, np.ndarray] | None = None,
        measured: tuple[Any, np.ndarray] | None = None,
        record: Callable[..., Any] | None = None,
    ) -> tuple[np.ndarray, int]:
        """`count` samples as uint8 pixels or int32 tokens, and network evaluations for each.

        Sample i depends on the seed and on i alone, whatever the batch size.

        Args:
            params: the network's, usually averaged: `model.network(state.ema)`.
            cond: labels (count,), features (count, L, F), a dict of what the network of pictures is told (see
                `jaxdiff.networks.conditions`), or None for unconditional samples.
            batch_size: samples drawn at once; several devices round it up to a multiple of their number.
            trajectory: return every time of the grid, (steps + 1, count, H, W, C), instead of the last.
            devices: local ones to share the samples; one by default.
            observed: `(mask, value)` of known elements, (count, ...).
            measured: `(operator, y)` with y (count, ...) = A x0 without noise, which samples then agree with (DDNM).
            record: called by the sampler after each step, see `jaxdiff.sample`; on one device only.

        Raises:
            UserError: the network is an autoencoder.
        """
        if isinstance(self.recipe.network, Autoencoder):
            raise UserError(
                "an autoencoder draws no samples; train a diffusion in its latents: "
                "python -m experiments.train latent --latents RUN"
            )
        batch_size, params = min(batch_size, count), self.cast(params)
        sample = functools.partial(self._sample, record=record) if record else self._sample
        finish = np.asarray if self.info.tokenizer is not None else self.pixels
        dtype = jnp.int32 if self.info.tokens else jnp.float32
        if devices is not None and len(devices) > 1:
            batch_size += -batch_size % len(devices)
            params = parallel.replicate(params, devices)
            sample = functools.partial(parallel.pmap_sample, devices=devices)
        chosen = self._solver(sampler)
        times = self.times(sampler)
        chunks, nfe = [], 0
        for first in range(0, count, batch_size):
            index = np.arange(first, first + batch_size) % count  # the last batch is filled up: one compilation
            rows = lambda whole, index=index: jax.tree.map(lambda a: jnp.asarray(a[index]), whole)
            denoise, solver, evaluations = self._denoiser(params, rows(cond), sampler, chosen, rows(observed))
            if measured is not None:
                denoise = conditioning.DDNM(denoise, measured[0], rows(measured[1]))
            x, info = sample(
                jax.random.key(seed),
                self.process,
                denoise,
                solver,
                times,
                spec=jax.ShapeDtypeStruct((batch_size, *self.info.shape), dtype),
                first=first,
                trajectory=trajectory,
            )
            x, nfe = (info.trajectory if trajectory else x), int(info.nfe) * evaluations
            chunks.append(finish(x)[:, : count - first] if trajectory else finish(x)[: count - first])
        return np.concatenate(chunks, 1 if trajectory else 0), nfe

    def _solver(self, sampler: Sampler) -> Any:
        """The sampler's solver; a network of blocks is sampled block after block, whatever solves one of them."""
        block = self._block
        if block is None or isinstance(sampler.solver, solvers.BlockDiffusion):
            return sampler.solver
        return solvers.BlockDiffusion(inner=sampler.solver, block=block)

    def times(self, sampler: Sampler) -> jax.Array:
        """The sampler's grid (steps + 1,); for blocks, its share of the steps in each, one after the other."""
        solver = self._solver(sampler)
        if not isinstance(solver, solvers.BlockDiffusion):
            return sampler.times(self.process.schedule)
        length, block = self.info.shape[0], solver.block
        if length % block:
            raise UserError(f"--solver.block must divide the {length} tokens of a window, got {block}")
        count = length // block
        if sampler.steps % count:
            raise UserError(
                f"--steps are those of all {count} blocks of {block} tokens together, so a multiple of {count}; "
                f"got {sampler.steps}"
            )
        times = dataclasses.replace(sampler, steps=sampler.steps // count).times(self.process.schedule)
        return grids.blockwise(times, count)

    def denoiser(self, params: Any, observed: tuple[Any, Any] | None = None) -> Any:
        """`(x_t, t, cond) -> E[x0 | x_t, cond]`, given `(mask, value)` of known elements."""
        denoise = self.process.denoiser(jax.tree_util.Partial(self.apply, self.cast(params)), observed)
        return Residual(denoise=denoise, schedule=self.process.schedule) if self.recipe.conditions.residual else denoise

    @property
    def told(self) -> set[str]:
        """What the network of pictures was told in training beside known pixels: keys of a `cond`."""
        return set(self._null) if isinstance(self._null, dict) else {"label"} if self.info.classes else set()

    def check_told(self, cond: Any, observed: Any = None, guidance_scale: float = 1.0) -> None:
        """Raise UserError where a run that learned nothing without its conditions is asked without one of them."""
        if self.recipe.cond_dropout > 0:
            return
        given = set(cond) if isinstance(cond, dict) else {"label"} if cond is not None else set()
        missing = sorted(self.told - given)
        if observed is None and self.recipe.conditions.holes:
            missing.append("known pixels")
        if not missing and self.told and guidance_scale != 1:
            missing = ["a condition, with which guidance compares"]
        if missing:
            raise UserError(
                f"this run never learned without {' and '.join(missing)} (--cond-dropout 0): give that, or train a run "
                "with --cond-dropout 0.1"
            )

    def _denoiser(self, params, cond, sampler, solver, observed=None):
        """The denoiser, the solver that goes with it, and how often a call evaluates the network for a sample."""
        if self._cached is not None:
            if solver.block != self._block:
                raise UserError(
                    f"the network's blocks have {self._block} tokens, and so must those of the solver; "
                    f"got --solver.block {solver.block}"
                )
            denoise = CachedDenoiser(process=self.process, params=params, functions=self._cached, observed=observed)
            return denoise, dataclasses.replace(solver, start=denoise.empty), 1
        self.check_told(cond, observed, sampler.guidance_scale)
        denoise = self.denoiser(params, observed)
        if cond is None:
            return denoise, solver, 1
        parts = isinstance(cond, dict)
        if sampler.guidance_scale == 1 or not (parts or self.info.classes):
            return guidance.condition(denoise, cond), solver, 1
        null = {name: self._null[name] for name in cond} if parts else jnp.int32(len(self.info.classes))
        rule = guidance.scale(scale=jnp.float32(sampler.guidance_scale))
        return guidance.classifier_free(denoise, cond, null, rule), solver, 2


def _given_the_past(objective: training.Objective) -> training.Objective:
    """Each noisy block of a block-causal network sees the clean blocks before it."""

    def with_clean(apply, params, ema, keys, batch, t):
        return objective(apply, params, ema, keys, {**batch, "cond": batch["x0"]}, t)

    return with_clean


def _process(recipe: Recipe, info: DataInfo) -> Any:
    """The recipe's process, once the number of tokens is known."""
    if isinstance(recipe.process, jaxdiff.Gaussian):
        if info.tokens:
            raise UserError(
                f"{info.name or 'the data'} are tokens, and process Gaussian takes real numbers; use --process masked, "
                "or --data.bits to make real numbers of them"
            )
        return recipe.process
    if not info.tokens:
        raise UserError(
            f"{info.name or 'the data'} are real numbers, and process {type(recipe.process).__name__} takes tokens; "
            "use a recipe of text, or --levels for pictures"
        )
    try:
        return recipe.process.make(info.tokens)
    except ValueError as error:
        raise UserError(str(error)) from error
