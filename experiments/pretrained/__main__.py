"""Draw samples from a pretrained model of diffusers: `python -m experiments.pretrained FOLDER [--out FILE] ...`."""

import dataclasses
import sys
import time
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import tyro
from etils import epath

from experiments import cli, pictures, pretrained, recipes
from experiments.choices import CHOICES
from experiments.data import to_pixels
from experiments.errors import UserError
from experiments.pretrained import sampling, scheduler
from experiments.recipe import Sampler
from jaxdiff import grids, solvers

_PROGRAM = "python -m experiments.pretrained"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """Draw samples from a folder that diffusers' `save_pretrained` wrote: pictures, and their array beside them."""

    folder: Annotated[str, tyro.conf.Suppress]
    sampler: Annotated[Sampler, tyro.conf.arg(name="")]
    classes: tuple[int, ...] = ()
    """Classes by number, of a model that has them."""
    count: int = 16
    """Samples of each class, or in all where there are no classes."""
    seed: int = 0
    """Sample i depends on the seed and on i alone."""
    out: str = "samples.png"
    """The picture; the array goes beside it. Of latents, whose decoder does not load, a name in .npz."""
    batch_size: int = 64
    """Samples drawn at once."""


def _arguments(argv: Sequence[str]) -> Arguments:
    places = {place: dict(CHOICES[f"sampler.{place}"]) for place in ("solver", "grid")}
    del places["solver"]["blockdiffusion"]  # of tokens, and made from a recipe
    chosen, rest = cli.take_choices(argv, places)
    folder = rest.pop(0) if rest and not rest[0].startswith("-") else None
    if folder is None and not {"-h", "--help"} & set(argv):
        raise UserError(f"needed a folder first: {_PROGRAM} FOLDER [--flags]")
    made: dict[str, Any] = {place: make(recipes.get("digits")) for place, make in chosen.items()}
    sampler = Sampler(**({"solver": solvers.DDIM(), "grid": grids.trailing, "steps": 50} | made))
    description = f"{Arguments.__doc__}\n\n{cli.choices_help(places)}"
    default = Arguments(folder=folder or "FOLDER", sampler=sampler)
    return cli.parse(Arguments, rest, f"{_PROGRAM} FOLDER", default, description)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = _arguments(list(sys.argv[1:] if argv is None else argv))
    out, sampler = epath.Path(arguments.out), arguments.sampler
    if arguments.count < 1 or arguments.batch_size < 1 or sampler.steps < 1:
        raise UserError("--count, --batch-size and --steps must be at least 1")
    if out.suffix not in (".png", ".npz"):
        raise UserError(f"needed --out with a name that ends in .png or .npz, got {out}")
    make, params = pretrained.load(arguments.folder)
    noise = scheduler.load(arguments.folder)
    channels = sampling.built(make).shape[-1]
    if out.suffix == ".png" and channels not in (1, 3):
        raise UserError(f"the model's {channels} channels are latents, whose decoder does not load; use --out NAME.npz")
    labels = np.repeat(arguments.classes, arguments.count) if arguments.classes else None
    count = arguments.count if labels is None else len(labels)
    options = {"sampler": sampler, "labels": labels, "count": count}

    began = time.perf_counter()
    x, nfe = sampling.draw(make, params, noise, **options, seed=arguments.seed, batch_size=arguments.batch_size)
    seconds = time.perf_counter() - began

    out.parent.mkdir(parents=True, exist_ok=True)
    with out.with_suffix(".npz").open("wb") as file:
        np.savez_compressed(file, samples=x, labels=np.full(count, -1) if labels is None else labels)
    if out.suffix == ".png":
        out.write_bytes(pictures.grid(to_pixels(x), columns=min(arguments.count, 16)))
    print(
        f"{count} samples with {type(sampler.solver).__name__}, {nfe} network evaluations each, in {seconds:.1f} s "
        f"(compilation included): {out}"
    )


if __name__ == "__main__":
    cli.program(main)
