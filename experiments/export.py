"""Export a run's parameters: `python -m experiments.export RUN OUT.safetensors [--raw] [--step N] ...`.

The file holds plain float32 arrays under names like `blocks.0.attention.qkv.kernel`, which any safetensors reader loads
without this project. What they are is JSON: in the file's metadata, under "jaxdiff", and beside it in OUT.json:

    version, recipe, data     the run's config.json; `experiments.config.decode` makes the objects of the latter two
    step, parameters          optimiser updates; "average" or "raw"; of an average made from snapshots its sigma_rel
    sha256                    of the arrays, see `digest`
"""

import dataclasses
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import jax
import numpy as np
import safetensors.numpy
import tyro
from etils import epath

from experiments import cli
from experiments.errors import UserError
from experiments.loading import load, load_state

_PROGRAM = "python -m experiments.export"
_SUFFIX = ".safetensors"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """Write a trained run's parameters, averaged over training, as a safetensors file that is read without JAX."""

    run: Annotated[str, tyro.conf.Suppress]
    out: Annotated[str, tyro.conf.Suppress]
    raw: bool = False
    """The parameters as they were at the last step, instead of their average."""
    sigma_rel: float | None = None
    """Relative length of the average, from the snapshots of a run with --averages; None for its `ema`."""
    step: int | None = None
    """Which checkpoint; the newest by default."""
    unfinished: bool = False
    """Use the newest checkpoint of a run that has not finished."""
    overwrite: bool = False
    """Replace the files where they exist."""


def tensors(params: Any) -> dict[str, np.ndarray]:
    """`params`, nested dicts of arrays, as float32 arrays by the names of the way to them, joined with dots."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    name = lambda path: ".".join(str(entry.key) for entry in path)
    return {name(path): np.ascontiguousarray(leaf, np.float32) for path, leaf in leaves}


def nested(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The nested dicts behind `tensors`: what a network's `apply` takes."""
    params: dict[str, Any] = {}
    for name, array in arrays.items():
        *way, last = name.split(".")
        place = params
        for part in way:
            place = place.setdefault(part, {})
        place[last] = array
    return params


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of the line `NAME SHAPE`, the shape as in `8x16`, and the bytes of each array, in the order of names."""
    sha = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        sha.update(f"{name} {'x'.join(map(str, array.shape))}\n".encode())
        sha.update(np.ascontiguousarray(array, "<f4").data)
    return sha.hexdigest()


def export(
    run: epath.PathLike,
    out: epath.PathLike,
    *,
    raw: bool = False,
    sigma_rel: float | None = None,
    step: int | None = None,
    unfinished: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write `out` and the JSON beside it, and return what the JSON says.

    Raises:
        UserError: see `experiments.loading.load_state`; or `out` is no name for such a file, or exists.
    """
    run, out = epath.Path(run), epath.Path(out)
    if out.suffix != _SUFFIX:
        raise UserError(f"needed a file name that ends in {_SUFFIX}, got {out}; use {out.with_suffix(_SUFFIX)}")
    beside = out.with_suffix(".json")
    if not overwrite and (there := [str(path) for path in (out, beside) if path.exists()]):
        raise UserError(f"{' and '.join(there)} already there; add --overwrite, or choose another name")
    if raw and sigma_rel is not None:
        raise UserError("--raw is no average and --sigma-rel is one; give one of them")
    if raw:
        model, state, step = load_state(run, step=step, unfinished=unfinished)
        params = model.network(state.params)
    else:
        _, params, step = load(run, step=step, unfinished=unfinished, sigma_rel=sigma_rel)
    arrays = tensors(jax.device_get(params))
    about = {
        **json.loads((run / "config.json").read_text()),
        "step": step,
        "parameters": "raw" if raw else "average",
        **({} if sigma_rel is None else {"sigma_rel": sigma_rel}),
        "sha256": digest(arrays),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    _write(out, safetensors.numpy.save(arrays, {"jaxdiff": json.dumps(about)}))
    _write(beside, (json.dumps(about, indent=2) + "\n").encode())
    return {**about, "tensors": len(arrays), "numbers": sum(array.size for array in arrays.values())}


def _write(path: epath.Path, data: bytes) -> None:
    """All of it or nothing."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    partial.replace(path)


def _arguments(argv: Sequence[str]) -> Arguments:
    usage = f"{_PROGRAM} RUN OUT{_SUFFIX} [--flags]"
    named = [item for item in argv[:2] if not item.startswith("-")]
    if len(named) < 2 and not {"-h", "--help"} & set(argv):
        raise UserError(f"needed a run directory and a file to write: {usage}")
    run, out = named if len(named) == 2 else ("RUN", f"OUT{_SUFFIX}")
    rest, description = argv[len(named) :], Arguments.__doc__ or ""
    return cli.parse(Arguments, rest, f"{_PROGRAM} RUN OUT{_SUFFIX}", Arguments(run=run, out=out), description)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = _arguments(list(sys.argv[1:] if argv is None else argv))
    done = export(**vars(arguments))
    print(
        f"{done['parameters']} parameters of step {done['step']}, {done['numbers']:,} numbers "
        f"in {done['tensors']} arrays: {arguments.out}"
    )


if __name__ == "__main__":
    cli.program(main)
