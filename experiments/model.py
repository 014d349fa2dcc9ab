"""A model: the objects of a recipe once the data are known, and parameters to draw samples with."""

import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath

import jaxdiff
from experiments import config
from experiments.data import Images, to_pixels
from experiments.data.levels import from_levels
from experiments.errors import UserError
from experiments.networks import Autoencoder
from experiments.recipe import Recipe, Sampler
from jaxdiff import (
    TrainState,
    autoencoding,
    averages,
    grids,
    guidance,
    networks,
    parallel,
    solvers,
    training,
    uncertainty,
)
from jaxdiff.processes import CachedDenoiser


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataInfo:
    """What a network needs to know of its data.

    Attributes:
        shape: (H, W, C) of pictures, (L,) of tokens.
        classes: the name of each label; empty without labels.
        name, checksum: which data these are.
        tokens: values that a token can have; 0 for data that are real numbers.
        tokenizer: what the tokens say; None for data that are not text.
        features: numbers that are known of each token; 0 for none.
        embedding: shape of the vector or sequence that comes with each example; () for none.
        prompt_length: places at the beginning of a window for a prompt and, behind them, one for a separator; 0 where
            a prompt may stand anywhere.
        latents: `experiments.latents.Latents`, of which autoencoder and in which units; None for the data themselves.
    """

    shape: tuple[int, ...]
    classes: tuple[str, ...] = ()
    name: str = ""
    checksum: str = ""
    tokens: int = 0
    tokenizer: Any = None
    features: int = 0
    embedding: tuple[int, ...] = ()
    prompt_length: int = 0
    latents: Any = None

    @classmethod
    def of(cls, images: Images) -> "DataInfo":
        return cls(shape=images.shape, classes=images.classes, name=images.name, checksum=images.checksum)


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
            about: dict[str, Any] = {"tokens": info.tokens, "states": states, "features": info.features}
            about["told"] = told.features(info.shape, info.embedding)
            make = recipe.network.make(info.shape, len(info.classes), **about)
            self.init, self.apply = networks.functional(make)
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
            cond_dropout=0.0 if self._null is None else rate,
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
            record: called by the sampler after each step, see `jaxdiff.sample`; on one device only.

        Raises:
            UserError: the network is an autoencoder.
        """
        if isinstance(self.recipe.network, Autoencoder):
            raise UserError(
                "an autoencoder draws no samples; train a diffusion in its latents: "
                "python -m experiments.train latent --latents RUN"
            )
        batch_size = min(batch_size, count)
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
        denoise = self.process.denoiser(jax.tree_util.Partial(self.apply, params), observed)
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


def read_config(run: epath.Path) -> tuple[Recipe, DataInfo]:
    """The recipe and the data of a run directory.

    Raises:
        UserError: no such run, or a configuration that cannot be read.
    """
    path = run / "config.json"
    if not path.exists():
        raise UserError(
            f"needed a run directory with a config.json, got {run}"
            + (" (no such directory)" if not run.exists() else "")
            + "; train one: python -m experiments.train digits"
        )
    try:
        stored = json.loads(path.read_text())
        return config.decode(stored["recipe"]), config.decode(stored["data"])
    except (json.JSONDecodeError, KeyError) as error:
        raise UserError(
            f"{path} is not a configuration that this program wrote ({error}); train the run anew"
        ) from error


def read_model(run: epath.Path) -> Model:
    """The model of a run directory, without parameters but for those of its codec.

    Raises:
        UserError: as `read_config`; or the run's copy of its autoencoder is missing or damaged.
    """
    recipe, info = read_config(run)
    if info.latents is None:
        return Model(recipe, info)
    from experiments.latents import restore

    return Model(recipe, info, restore(run, info.latents))


def load(
    run: epath.PathLike, *, step: int | None = None, unfinished: bool = False, sigma_rel: float | None = None
) -> tuple[Model, Any, int]:
    """`(model, averaged parameters, step)` of a run directory.

    Args:
        run: the directory.
        step: which checkpoint, the newest by default.
        unfinished: accept a run that has not finished.
        sigma_rel: relative length of the average, reconstructed from the run's snapshots; None for the run's `ema`.

    Raises:
        UserError: as `load_state`; snapshots that are missing or too few for this length.
    """
    if sigma_rel is not None:
        from experiments.snapshots import reconstruct

        return reconstruct(epath.Path(run), sigma_rel, step=step)
    model, state, step = load_state(run, step=step, unfinished=unfinished)
    return model, model.network(state.ema), step


def load_state(
    run: epath.PathLike, *, step: int | None = None, unfinished: bool = False
) -> tuple[Model, TrainState, int]:
    """`(model, training state, step)` of a run directory.

    Raises:
        UserError: no run, no checkpoint, a damaged one, or a run that has not finished and `unfinished` is not set.
    """
    from experiments.checkpoint import Checkpoints

    run = epath.Path(run)
    model = read_model(run)
    recipe = model.recipe
    like = jax.eval_shape(model.fresh_state)
    if not (run / "checkpoints").exists():
        raise UserError(
            f"run {run} has no checkpoint; continue it: python -m experiments.train RECIPE --out {run} --resume"
        )
    with Checkpoints(run / "checkpoints", recipe.keep) as checkpoints:
        newest = max(checkpoints.steps(), default=0)
        if newest < recipe.steps and step is None and not unfinished:
            raise UserError(
                f"run {run} is unfinished: its newest checkpoint is of step {newest} of {recipe.steps}; "
                "finish it with --resume, or add --unfinished to use it as it is"
            )
        state, _, step = checkpoints.restore(like, step)
    return model, state, step


def check_same(run: epath.PathLike, model: Model, data: Any) -> None:
    """Raises UserError unless `data`, loaded anew, are those that the run was trained on."""
    if data.checksum != model.info.checksum:
        raise UserError(
            f"{run} was trained on data with checksum {model.info.checksum[:12]}, but {data.name} now has "
            f"{data.checksum[:12]}; restore the data, or train anew"
        )


def class_labels(info: DataInfo, names: tuple[str, ...]) -> list[int]:
    """The labels of classes given by name or number.

    Raises:
        UserError: a class that the data do not have.
    """
    if names and not info.classes:
        raise UserError(
            f"classes {', '.join(names)} were asked for, but {info.name or 'the data'} has none; leave --classes out"
        )
    labels = []
    for name in names:
        if name in info.classes:
            labels.append(info.classes.index(name))
        elif name.isdigit() and int(name) < len(info.classes):
            labels.append(int(name))
        else:
            raise UserError(
                f"unknown class {name!r}; the classes are {', '.join(info.classes)} (or 0 to {len(info.classes) - 1})"
            )
    return labels
