"""Change a picture with a run: `python -m experiments.edit RUN --image FILE|--test N --strength 0.6 [--to CLASS] ...`.

By noise (SDEdit), by inversion, inside a mask, or around an object pasted on it; without training.
"""

import dataclasses
import re
import time
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from etils import epath

from experiments import cli, picture_files, pictures
from experiments.data import from_pixels, to_pixels
from experiments.editing import edit, paste
from experiments.errors import UserError
from experiments.info import class_labels
from experiments.loading import load
from experiments.model import Model


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(cli.RunArguments):
    """Change a picture: noise it and draw from there, or invert it and draw it as another class."""

    image: str | None = None
    """PNG or JPEG of the size of the run's pictures."""
    test: int | None = None
    """Instead of a file, this picture of the run's test split."""
    strength: float = 0.6
    """The time to which the picture goes: 0 leaves it, 1 draws another."""
    method: Literal["sdedit", "inversion"] = "sdedit"
    """sdedit adds noise, inversion finds the noise that leads to the picture; see docs/composition.md."""
    to: str | None = None
    """The class to draw, by name or number; that of --from by default."""
    source: Annotated[str | None, tyro.conf.arg(name="from")] = None
    """The class of the picture; the test split's own with --test, unknown by default."""
    mask: str | None = None
    """For sdedit: a picture of the same size, white where it may change; the rest comes back bit for bit."""
    paste: str | None = None
    """For sdedit: an object, best with transparency, to lay on the picture; it and its surroundings are redrawn."""
    at: str = "0,0"
    """Of --paste: x,y of the object's upper left corner."""
    margin: int = 2
    """Of --paste: pixels around the object that may change."""
    times: int = 1
    """With a mask or object: repetitions of each step, which make what is drawn agree with the rest."""
    count: int = 8
    """Samples; an inversion has one."""
    out: str | None = None
    """The picture; an array and figures go beside it. Default: RUN/edited/METHOD-STRENGTH-seedSEED.png."""


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    arguments = cli.run_arguments(Arguments, "python -m experiments.edit", argv)
    picture_files.check_given(arguments.image, arguments.test)
    if arguments.mask is not None and arguments.paste is not None:
        raise UserError("--mask and --paste both say what may change: give one of them")
    if min(arguments.count, arguments.times) < 1:
        raise UserError("--count and --times must be at least 1")
    if not 0 <= arguments.strength <= 1:
        raise UserError(
            f"--strength must lie in [0, 1], 0 leaves the picture and 1 draws another, got {arguments.strength}"
        )
    run, sampler = epath.Path(arguments.run), arguments.sampler
    model, params, _ = load(run, step=arguments.step, unfinished=arguments.unfinished)
    picture_files.check(model, "editing")
    original, label = _picture(arguments, model)
    source = _label(arguments.source, model) if arguments.source is not None else label
    target = _label(arguments.to, model) if arguments.to is not None else source
    if sampler.guidance_scale != 1 and target is None:
        raise UserError(f"--guidance-scale {sampler.guidance_scale:g} needs a class to draw; say which with --to")
    picture, changed = original, None
    if arguments.mask is not None:
        changed = picture_files.read(arguments.mask, 1)[:, :, 0] > 127
    if arguments.paste is not None:
        pasted = picture_files.read(arguments.paste, model.info.shape[-1], opacity=True)
        pasted = np.concatenate([from_pixels(pasted[..., :-1]), pasted[..., -1:] / np.float32(255)], -1)
        picture, changed = paste(picture, pasted, _at(arguments.at), arguments.margin)
    count = 1 if arguments.method == "inversion" else arguments.count
    began = time.perf_counter()
    edited = edit(
        model,
        params,
        picture,
        method=arguments.method,
        strength=arguments.strength,
        sampler=sampler,
        source=source,
        target=target,
        changed=changed,
        times=arguments.times,
        count=count,
        seed=arguments.seed,
    )
    name = lambda label: None if label is None else model.info.classes[label]
    figures: dict[str, Any] = {
        "method": arguments.method,
        "strength": arguments.strength,
        "from": name(source),
        "to": name(target),
        "nfe": edited.nfe,
        "seconds": round(time.perf_counter() - began, 1),
        "change": float(np.sqrt(((edited.samples - picture) ** 2).mean())),
        "spread": float(edited.samples.std(0).mean()),
    }
    if changed is not None:
        figures["changed_pixels"] = int(changed.sum())
    file = f"{arguments.method}-{arguments.strength:g}-seed{arguments.seed}.png"
    out = epath.Path(arguments.out) if arguments.out else run / "edited" / file
    arrays = {"samples": edited.samples, "picture": picture[0]}
    arrays |= {} if changed is None else {"changed": changed}
    seen = [original] if picture is original else [original, picture]
    shown = np.concatenate([*seen, *([] if changed is None else [_shown(changed, picture)]), edited.samples])
    picture_files.write(out, pictures.grid(to_pixels(shown), len(shown)), edited.path, arrays, figures)
    return figures


def _picture(arguments: Arguments, model: Model) -> tuple[np.ndarray, int | None]:
    if arguments.test is not None:
        return picture_files.of_test(model, arguments.test)
    return picture_files.of_file(str(arguments.image), model.info.shape), None


def _label(name: str, model: Model) -> int:
    if not model.info.classes:
        raise UserError(f"--to and --from need classes, but {model.info.name or 'the data'} has none; leave them out")
    return class_labels(model.info, (name,))[0]


def _at(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(-?\d+),(-?\d+)", text.replace(" ", ""))
    if not match:
        raise UserError(f"--at must be x,y in pixels, such as 4,10, got {text!r}")
    return int(match[1]), int(match[2])


def _shown(changed: np.ndarray, picture: np.ndarray) -> np.ndarray:
    return np.broadcast_to(np.where(changed, 1.0, -1.0)[None, :, :, None], picture.shape).astype(np.float32)


if __name__ == "__main__":
    cli.program(main)
