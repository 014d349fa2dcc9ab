"""The whole way on the embedded digits: train, sample, evaluate; `make demo` runs it."""

import sys
import time
from collections.abc import Sequence

from experiments import cli, evaluate, sample, train

RUN = "runs/demo"


def main(argv: Sequence[str] | None = None) -> None:
    extra = list(sys.argv[1:] if argv is None else argv)
    stages = {
        "train": lambda: train.main(["digits", "--out", RUN, "--overwrite", *extra]),
        "sample": lambda: sample.main([RUN]),
        "evaluate": lambda: evaluate.main([RUN]),
    }
    seconds = {}
    for name, stage in stages.items():
        print(f"--- {name}", flush=True)
        began = time.perf_counter()
        stage()
        seconds[name] = time.perf_counter() - began
    print(
        "--- seconds: "
        + ", ".join(f"{name} {s:.0f}" for name, s in seconds.items())
        + f", in all {sum(seconds.values()):.0f}"
    )
    print(f"pictures: {RUN}/samples.png, {RUN}/forward.png, {RUN}/trajectory.png, {RUN}/evaluation.png")
    print(f"report:   {RUN}/report.html")


if __name__ == "__main__":
    cli.program(main)
