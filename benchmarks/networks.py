"""U-Net, DiT and MLP on the digits, each trained for the same time on the same machine, then judged alike.

    python -m benchmarks.networks [--seconds 120]

A probe of each network gives its step time (compilation apart); the number of steps follows from it, so that the
learning-rate schedule ends where the time does. Prints a table and writes benchmarks/results/networks.json.
"""

import argparse
import dataclasses
import itertools
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import results_file
from experiments import recipes, train
from experiments.data import Batches, Images, Split, digits
from experiments.evaluation import BASELINE, evaluate
from experiments.info import DataInfo
from experiments.networks import MLP, DiT, UNet

NETWORKS = {
    "U-Net": UNet(channels=32, multipliers=(1, 2), blocks=1, attention=(4,), head_dim=32, dropout=0.1),
    "DiT": DiT(patch=1, width=96, depth=4, heads=3, dropout=0.1),
    "MLP": MLP(width=512, depth=4, dropout=0.1),
}
SHOWN = ("frechet", "frechet_std", "class_consistency", "recall", "coverage", "memorisation_ratio")
PROBE = 40


def load() -> Images:
    """The digits from scikit-learn's arrays: this runs where TFDS is not installed."""
    splits = {
        name: Split(images=pixels[..., None], labels=labels.astype(np.int32))
        for name, (pixels, labels) in digits.arrays().items()
    }
    return Images(
        name="digits", shape=(8, 8, 1), classes=tuple("0123456789"), checksum="", provenance="scikit-learn", **splits
    )


def compare(seconds: float) -> dict[str, Any]:
    """Train each network for `seconds` after compilation and judge it, beside the baseline (the same for all)."""
    recipe, images = recipes.get("digits"), load()
    info = DataInfo.of(images)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, network in NETWORKS.items():
            order = Batches(split=images.train, batch_size=recipe.batch_size, seed=recipe.seed)
            feed = lambda order=order: (order[i] for i in itertools.count())
            probe = train.run(dataclasses.replace(recipe, network=network, steps=PROBE), feed(), info=info).summary
            steps = max(1, round(seconds * (PROBE - 1) / probe["seconds"]))
            print(f"{name}: {probe['seconds'] / (PROBE - 1):.4f} s a step, {steps} steps", file=sys.stderr)
            run = f"{folder}/{name}"
            timed = dataclasses.replace(recipe, network=network, steps=steps, checkpoint_every=steps)
            summary = train.run(timed, feed(), run, info=info).summary
            sets = evaluate(run, images)["sets"]
            results |= {name: {**summary, **sets["model"]}, BASELINE: sets[BASELINE]}
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120.0, help="training time of each network (%(default)s)")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/networks.json"), help="%(default)s")
    arguments = parser.parse_args()
    results = compare(arguments.seconds)
    print(f"{'':20}{'steps':>7}{'params':>10}" + "".join(f"{key[:18]:>20}" for key in SHOWN))
    for name, row in results.items():
        size = f"{row['steps']:>7}{row['parameters']:>10,}" if "steps" in row else f"{'':17}"
        print(f"{name:20}{size}" + "".join(f"{row[key]:>20.3f}" for key in SHOWN))
    about = {"seconds": arguments.seconds, **results_file.about()}
    results_file.write(arguments.json, {"about": about, "networks": results})


if __name__ == "__main__":
    main()
