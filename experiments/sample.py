"""Draw samples from a run: `python -m experiments.sample RUN [--solver NAME] [--steps N] [--classes 3,5] ...`, or of
text `[--prompt "To be"]`."""

import dataclasses
import sys
import time
from collections.abc import Sequence

import numpy as np
from etils import epath

from experiments import cli, pictures
from experiments.errors import UserError
from experiments.hardware import choose_devices
from experiments.info import class_labels
from experiments.loading import load
from experiments.text import sampling


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(cli.SampleArguments):
    """Draw samples from a trained run: pictures and their array, or text and its tokens."""

    classes: tuple[str, ...] = ()
    """Classes by name or number, separated by commas or spaces; all of them by default."""
    count: int = 10
    """Samples of each class, or in all where there are no classes."""
    prompt: str | None = None
    """Of a run on text: what it begins with; ___ in it is a gap to fill. Of a run that replies or summarises: what to
    reply to (\\n is a new line), or the abstract."""
    gap: int = 24
    """Tokens that each ___ of the prompt stands for."""
    live: bool = True
    """Show a text while it becomes known, on a terminal."""
    out: str | None = None
    """The picture or text; the array goes beside it. Default: RUN/samples/SOLVER-STEPS-gSCALE-seedSEED.png or .txt."""
    batch_size: int = 512
    """Samples drawn at once."""


def main(argv: Sequence[str] | None = None) -> None:
    arguments = cli.run_arguments(Arguments, "python -m experiments.sample", argv)
    if arguments.count < 1 or arguments.sampler.steps < 1:
        raise UserError(f"--count and --steps must be at least 1, got {arguments.count} and {arguments.sampler.steps}")
    run, sampler = epath.Path(arguments.run), arguments.sampler
    model, params, step = load(run, step=arguments.step, unfinished=arguments.unfinished, sigma_rel=arguments.sigma_rel)
    name = f"{type(sampler.solver).__name__}-{sampler.steps}-g{sampler.guidance_scale:g}-seed{arguments.seed}"
    suffix = ".png" if model.info.tokenizer is None else ".txt"
    out = epath.Path(arguments.out) if arguments.out else run / "samples" / f"{name}{suffix}"
    devices = choose_devices(arguments.devices)
    if model.info.tokenizer is not None:
        if arguments.classes or sampler.guidance_scale != 1:
            raise UserError(f"--classes and --guidance-scale need classes, but {run} was trained on text; use --prompt")
        shared = {name: getattr(arguments, name) for name in ("count", "seed", "prompt", "gap", "batch_size", "live")}
        done = sampling.write(model, params, sampler=sampler, devices=devices, out=out, **shared)
        print(f"step {step} with {type(sampler.solver).__name__}: {done}", file=sys.stderr)
        return
    if arguments.prompt is not None:
        raise UserError(f"--prompt needs a run on text, but {run} was trained on pictures; use --classes")
    names = tuple(name for part in arguments.classes for name in part.split(",") if name)
    kinds = class_labels(model.info, names) or list(range(len(model.info.classes)))
    if sampler.guidance_scale != 1 and not kinds:
        raise UserError(f"--guidance-scale {sampler.guidance_scale:g} needs classes, but {run} was trained without any")
    labels = np.repeat(kinds, arguments.count) if kinds else None
    count = arguments.count if labels is None else len(labels)

    began = time.perf_counter()
    options = {"sampler": sampler, "seed": arguments.seed, "batch_size": arguments.batch_size}
    samples, nfe = model.draw(params, labels, count, **options, devices=devices)
    seconds = time.perf_counter() - began

    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(pictures.grid(samples, columns=min(arguments.count, 16)))
    with out.with_suffix(".npz").open("wb") as file:
        np.savez_compressed(file, samples=samples, labels=np.full(count, -1) if labels is None else labels)
    print(
        f"{count} samples of step {step} with {type(sampler.solver).__name__}, {nfe} network "
        f"evaluations each, in {seconds:.1f} s (compilation included): {out}"
    )


if __name__ == "__main__":
    cli.program(main)
