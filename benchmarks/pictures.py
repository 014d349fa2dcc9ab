"""Every picture of the documentation from nothing: trains what it shows, measures it, draws it. Hours on two CPU cores.

    python -m benchmarks.pictures                       all of them; the data are downloaded
    python -m benchmarks.pictures --data DIR            from DIR/mnist, DIR/fashion-mnist, ... as they were published
    python -m benchmarks.pictures restoration --dry-run what would run for one of them

A run that has finished is not trained again. The commands are those of the pages, which say what they cost.
"""

import argparse
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.progress import Progress

PICTURES, TRAIN, EVALUATE = Path("docs/pictures"), "experiments.train", "experiments.evaluate"
REGRESSOR = "--times.low 1 --times.high 1"
RUNS = {  # name: recipe, data, flags
    "digits": ("digits", None, ""),
    "mnist": ("mnist", "mnist", ""),
    "superres": ("superres", "fashion-mnist", ""),
    "regressor": ("superres", "fashion-mnist", REGRESSOR),
    "inpaint": ("inpaint", "fashion-mnist", "--conditions.holes center"),
    "text_char": ("text_char", "tinyshakespeare", ""),
    "mask": ("text_char", "tinyshakespeare", "--steps 600 --ema 0.98"),
    "uniform": ("text_char", "tinyshakespeare", "--steps 600 --ema 0.98 --process uniform --network.time"),
    "block16": ("text_char", "tinyshakespeare", "--steps 600 --ema 0.98 --network.block 16"),
    "block1": ("text_char", "tinyshakespeare", "--steps 600 --ema 0.98 --network.block 1"),
}
TEXTS = ["text_char", "mask", "uniform", "block16", "block1"]
DRAWN = {  # name: runs it needs, commands with {runs} and {data}, and its pictures: from a run, or drawn in their place
    "digits": (["digits"], ["experiments.sample {runs}/digits"], {"digits.png": "digits/samples.png"}),
    "solvers": (["digits"], ["benchmarks.solvers --run {runs}/digits"], {"solvers.png": None}),
    "pareto": (["digits"], ["benchmarks.pareto --run {runs}/digits"], {"pareto.png": None}),
    "text": (
        TEXTS,
        [" ".join(["benchmarks.text", *(f"{{runs}}/{name}" for name in TEXTS), "--samples 32 --repeats 2 --draws 16"])],
        {"text.png": None},
    ),
    "restoration": (
        ["superres", "regressor", "inpaint"],
        [f"{EVALUATE} {{runs}}/superres --regressor {{runs}}/regressor", f"{EVALUATE} {{runs}}/inpaint"],
        {
            "restored-superres.png": "superres/restored-superres-x4.png",
            "restored-inpaint.png": "inpaint/restored-inpaint-the-center.png",
        },
    ),
    "composition": (["mnist"], ["benchmarks.composition {runs}/mnist"], {"composition.png": None}),
    "latent": (
        [],
        ["benchmarks.latent --folder {data}/hdri-panoramas/ldr_128x256 --runs {runs}/latent"],
        {"latent.png": None},
    ),
}


def training(name: str, runs: Path, data: Path | None) -> str:
    """The command that trains one of `RUNS`."""
    recipe, folder, flags = RUNS[name]
    raw = f"--data.raw-dir {data / folder}" if data and folder else ""
    return " ".join(f"{TRAIN} {recipe} --out {runs / name} {raw} {flags}".split())


def commands(name: str, runs: Path, data: Path | None) -> Iterator[str]:
    """What is to run for one of `DRAWN`, in order."""
    needed, then, _ = DRAWN[name]
    yield from (training(run, runs, data) for run in needed if not (runs / run / "summary.json").exists())
    yield from (command.format(runs=runs, data=data) for command in then)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(DRAWN)}; all by default")
    parser.add_argument("--data", type=Path, help="folder of downloaded data sets, each in a folder of its own")
    parser.add_argument("--runs", type=Path, default=Path("runs/pictures"), help="%(default)s")
    parser.add_argument("--dry-run", action="store_true", help="print the commands, run nothing")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(DRAWN):
        parser.error(f"no picture is called {', '.join(sorted(unknown))}; there are {', '.join(DRAWN)}")
    names = arguments.names or list(DRAWN)
    if arguments.data is None and "latent" in names:
        parser.error("latent needs --data DIR with pictures in DIR/hdri-panoramas; or name the others")
    todo = list(dict.fromkeys(c for name in names for c in commands(name, arguments.runs, arguments.data)))
    progress = Progress("pictures", len(todo))
    for command in todo:
        print(f"python -m {command}", flush=True)
        if not arguments.dry_run:
            subprocess.run([sys.executable, "-m", *shlex.split(command)], check=True)
            progress(command)
    for name in () if arguments.dry_run else names:
        for picture, source in DRAWN[name][2].items():
            if source is not None:
                shutil.copy(arguments.runs / source, PICTURES / picture)


if __name__ == "__main__":
    main()
