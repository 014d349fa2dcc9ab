"""A recipe: everything that decides what a run does, as one frozen dataclass of objects.

Every field can be set from the command line (`--batch-size 64 --network.channels 32`), and which object stands in a
place is chosen by name there (`--network dit --process.schedule cosine --sampler.solver heun`); see `experiments.cli`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import jax
import optax

from experiments.conditions import Conditions
from experiments.data import Cifar10, Digits, FashionMnist, Folder, Mnist, Tfds
from experiments.networks import Autoencoder, Network
from experiments.processes import Process
from experiments.text import KeptSentences, Replies, Text8, TextFile, TinyShakespeare, WrittenSummaries
from jaxdiff import averages, grids, solvers, times, weightings
from jaxdiff.types import Solver, Times, Weighting

Pictures: TypeAlias = Digits | Mnist | FashionMnist | Cifar10 | Tfds | Folder
Text: TypeAlias = TinyShakespeare | Text8 | TextFile
Given: TypeAlias = Replies | KeptSentences | WrittenSummaries
Data: TypeAlias = Pictures | Text | Given


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """AdamW or Muon behind gradient clipping, with linear warm-up and cosine decay to zero."""

    name: Literal["adamw", "muon"] = "adamw"
    """Muon orthogonalises the updates of matrices and leaves the rest to AdamW: fewer steps to the same loss."""
    learning_rate: float = 1e-3
    """The peak, reached after the warm-up."""
    warmup: int = 200
    """Updates until the peak."""
    weight_decay: float = 0.0
    clip: float = 1.0
    """Largest norm of the gradient."""
    beta2: float = 0.99

    def rate(self, steps: int) -> optax.Schedule:
        """Learning rate as a function of optimiser updates, for a run of `steps`."""
        warmup = min(self.warmup, max(steps - 1, 0))
        return optax.warmup_cosine_decay_schedule(0.0, self.learning_rate, warmup, max(steps, warmup + 1))

    def build(self, steps: int) -> optax.GradientTransformation:
        rate, decay = self.rate(steps), self.weight_decay
        if self.name == "muon":
            # Updates of matrices as large as Adam's, 0.2 a number: one learning rate serves both (arXiv 2502.16982).
            adam: dict[str, Any] = {"adam_b2": self.beta2, "adam_weight_decay": decay}
            inner = optax.contrib.muon(rate, weight_decay=decay, consistent_rms=0.2, **adam)
        else:
            inner = optax.adamw(rate, b2=self.beta2, weight_decay=decay)
        return optax.chain(optax.clip_by_global_norm(self.clip), inner)


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """How samples are drawn."""

    solver: Solver = field(default_factory=solvers.DPMpp2M)
    """By name on the command line; its numbers as `--sampler.solver.eta 0.5`."""
    grid: Callable[..., Any] = grids.karras
    """The times that it visits."""
    steps: int = 20
    """Steps of the grid; the network is evaluated once a step by most solvers."""
    guidance_scale: float = 1.0
    """1 is the conditional model itself, above it classes become typical at the expense of variety."""

    def times(self, schedule: Any) -> jax.Array:
        return self.grid(schedule, self.steps)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How a run is judged."""

    samples: int | None = None
    """Samples to draw; None for as many as there are training examples."""
    judges: int = 3
    """Judge classifiers, each trained with its own seed; figures are means over them."""
    batch_size: int = 512
    """Samples drawn at once."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a run trains on, how, and how it is sampled and judged."""

    data: Data
    """Where the pictures or the text come from."""
    network: Network
    """The denoiser's architecture."""
    process: Process
    """Noise schedule and prediction of real numbers; kind of noise of tokens."""
    times: Times = field(default_factory=times.uniform)
    """Law of the training times."""
    weighting: Weighting = field(default_factory=weightings.v)
    """Weight of the loss over time, relative to the squared error of v."""
    learned_weighting: bool = False
    """Learn a weight for each noise level beside the network, as in EDM2; it takes the place of `weighting`."""
    optimizer: Optimizer = Optimizer()
    batch_size: int = 128
    """Examples a step, over all devices."""
    steps: int = 3000
    """Optimiser updates."""
    ema: float = 0.999
    """Decay of the average of the parameters that samples are drawn with."""
    averages: tuple[float, ...] = ()
    """Relative lengths of averages to keep snapshots of; two, 0.05 0.10, give any other later (sample --sigma-rel)."""
    cond_dropout: float = 0.1
    """Share of training examples that lose their class and whatever else the network is told, which guidance needs."""
    conditions: Conditions = field(default_factory=Conditions)
    """What the network of pictures is told: class, small picture, known pixels, embeddings; any subset of them."""
    levels: int = 0
    """Levels of grey that pictures are rounded to, for processes of tokens; 0: pictures are real numbers."""
    flip: bool = False
    """Mirror training pictures at random."""
    latents: str | None = None
    """Run directory of an autoencoder in whose latents to diffuse; None: in the pictures themselves."""
    sampler: Sampler = Sampler()
    preview_guidance: float = 3.0
    """Guidance scale of the right half of samples.png."""
    evaluation: Evaluation = Evaluation()
    accumulate: int = 1
    """Parts in which each device takes its batch, one after the other: less memory, the same numbers."""
    steps_per_dispatch: int = 1
    """Steps that the device makes without Python between them: for small networks on fast devices."""
    nonfinite: Literal["stop", "skip"] = "stop"
    """What to do when a loss or gradient is not finite: end the run, or leave the update out and count it."""
    log_every: int = 50
    """Steps between two rows of metrics.jsonl, each a mean over them."""
    checkpoint_every: int = 1000
    """Steps between two checkpoints."""
    keep: int = 2
    """Newest checkpoints to keep, beside the best one."""
    keep_every: int | None = None
    """Also keep the checkpoints of steps that this number divides."""
    seed: int = 0
    """Of the initial parameters, the order of the data and all noise."""

    def __post_init__(self):
        whole = {
            "--batch-size": self.batch_size,
            "--steps": self.steps,
            "--log-every": self.log_every,
            "--checkpoint-every": self.checkpoint_every,
            "--keep": self.keep,
            "--accumulate": self.accumulate,
            "--steps-per-dispatch": self.steps_per_dispatch,
            "--sampler.steps": self.sampler.steps,
            "--evaluation.judges": self.evaluation.judges,
            "--evaluation.batch-size": self.evaluation.batch_size,
        }
        for flag, value in whole.items():
            if value < 1:
                raise ValueError(f"{flag} must be at least 1, got {value}")
        for flag in ("steps", "log_every", "checkpoint_every"):
            if getattr(self, flag) % self.steps_per_dispatch:
                raise ValueError(
                    f"--steps-per-dispatch must divide --{flag.replace('_', '-')} {getattr(self, flag)}, "
                    f"got {self.steps_per_dispatch}"
                )
        for length in self.averages:
            averages.power.of_width(length)  # raises for a length that no power function has
        if self.levels and not 2 <= self.levels <= 256:
            raise ValueError(f"--levels must be 0 or in 2..256, got {self.levels}")
        if self.levels and (self.flip or not isinstance(self.data, Pictures)):
            raise ValueError("--levels are those of pictures, and without --flip; leave one of them out")
        if self.levels and (self.conditions.restores or self.conditions.embeddings):
            raise ValueError("--levels go with labels alone; leave the other --conditions out")
        if self.latents is not None and (self.conditions.restores or self.conditions.embeddings):
            raise ValueError("--latents go with labels alone; leave the other --conditions out")
        if self.flip and self.conditions.embeddings:
            raise ValueError("--conditions.embeddings belong to pictures as they are; leave --flip out")
        if self.latents is not None and (self.flip or self.levels or not isinstance(self.data, Pictures)):
            raise ValueError("--latents are those of pictures, without --levels or --flip (--no-flip); leave one out")
        if isinstance(self.network, Autoencoder) and (self.latents is not None or self.learned_weighting):
            raise ValueError("--latents and --learned-weighting are for diffusion, not for --network autoencoder")
        if self.seed < 0:
            raise ValueError(f"--seed must not be negative, got {self.seed}")
        for flag, value in {"--ema": self.ema, "--cond-dropout": self.cond_dropout}.items():
            if not 0 <= value < 1:
                raise ValueError(f"{flag} must lie in [0, 1), got {value}")
        if self.optimizer.learning_rate <= 0 or self.optimizer.clip <= 0:
            raise ValueError(
                "--optimizer.learning-rate and --optimizer.clip must be positive, "
                f"got {self.optimizer.learning_rate} and {self.optimizer.clip}"
            )
