"""U-Net, DiT and MLP on the digits, each trained for the same time on the same machine, then judged alike.

    python -m benchmarks.networks [--seconds 120]

A probe of each network gives its step time (compilation apart); the number of steps follows from it, so that the
learning-rate schedule ends where the time does. Prints a table and writes benchmarks/results/networks.json.
"""

import dataclasses
import datetime
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import tyro

from experiments import evaluate, recipes, train
from experiments.data import batches
from experiments.hardware import versions
from experiments.model import DataInfo
from experiments.networks import MLP, DiT, UNet

NETWORKS = {
    "U-Net": UNet(channels=32, multipliers=(1, 2), blocks=1, attention=(4,), head_dim=32, dropout=0.1),
    "DiT": DiT(patch=1, width=96, depth=4, heads=3, dropout=0.1),
    "MLP": MLP(width=512, depth=4, dropout=0.1),
}
SHOWN = ("frechet", "frechet_std", "class_consistency", "recall", "coverage", "memorisation_ratio")
PROBE = 40


def main(seconds: float = 120.0, out: Path = Path("benchmarks/results/networks.json")) -> None:
    """Train each network for `seconds` after compilation, and judge its samples.

    Args:
        seconds: training time of each network.
        out: where the figures go.
    """
    digits = recipes.get("digits")
    images = digits.data.load()
    info = DataInfo.of(images)
    feed = lambda: batches(images.train, batch_size=digits.batch_size, seed=digits.seed)
    results: dict[str, Any] = {}
    baseline: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, network in NETWORKS.items():
            recipe = dataclasses.replace(digits, network=network, steps=PROBE)
            probe = train.run(recipe, feed(), info=info).summary
            steps = max(1, round(seconds * (PROBE - 1) / probe["seconds"]))
            print(f"{name}: {probe['seconds'] / (PROBE - 1):.4f} s a step, {steps} steps", file=sys.stderr)
            run = f"{folder}/{name}"
            recipe = dataclasses.replace(recipe, steps=steps, checkpoint_every=steps)
            summary = train.run(recipe, feed(), run, info=info).summary
            figures = evaluate.main([run])
            results[name] = {**summary, **figures["sets"]["model"]}
            baseline = figures["sets"][evaluate.BASELINE]
    print(f"{'':20}{'steps':>7}{'params':>10}" + "".join(f"{key[:18]:>20}" for key in SHOWN))
    for name, row in results.items():
        print(f"{name:20}{row['steps']:>7}{row['parameters']:>10,}" + "".join(f"{row[key]:>20.3f}" for key in SHOWN))
    print(f"{evaluate.BASELINE:20}{'':17}" + "".join(f"{baseline[key]:>20.3f}" for key in SHOWN))
    about = {"seconds": seconds, "date": str(datetime.date.today()), "versions": versions(), "data": images.checksum}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"about": about, "networks": results, evaluate.BASELINE: baseline}, indent=2) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
