"""Diffusion in latents beside diffusion in pixels at an equal cost of training, the autoencoder's included.

    python -m benchmarks.latent --folder DIR                    all stages, one after the other
    python -m benchmarks.latent --folder DIR --stage latent     one of those that --help names

Tiles of 64 x 64 from the pictures of a folder, split by picture. The cost is CPU time of the training steps,
compilation apart: a probe of each model gives that of a step, and the number of steps follows from it, so that the
learning-rate schedule ends where the budget does. Finished runs in `--runs` are kept.

Samples are judged in the features of `experiments.judge`: a network trained on the training tiles to tell by how much
a tile was turned. Every set has as many rows. Writes benchmarks/results/latent.json and docs/pictures/latent.png, and
prints a table in Markdown.
"""

import argparse
import dataclasses
import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import results_file
from benchmarks.runs import load
from experiments import codes, pictures, recipes, reconstruction, train
from experiments.data import Batches, Folder, Images
from experiments.info import DataInfo
from experiments.judge import train_judge
from experiments.latents import encoded
from experiments.model import Model
from experiments.networks import UNet
from jaxdiff.metrics import frechet_distance, kernel_distance, nearest_distance

PIXELS = {
    "pixels": UNet(channels=32, multipliers=(1, 2, 2), patch=2, blocks=1, attention=(8,), head_dim=32),
    "pixels-4": UNet(channels=64, multipliers=(1, 2, 2), patch=4, blocks=1, attention=(8,), head_dim=32),
}
STAGES = ("autoencoder", "latent", *PIXELS, "judge")
NAMES = {"latent": "latents", "pixels": "pixels, patch 2", "pixels-4": "pixels, patch 4"}
WARM, PROBE = 3, 20
JUDGES, COLUMNS = 1, 4


def images_of(folder: str, data_dir: str | None) -> Images:
    return Folder(folder=folder, size=128, tile=64, tiles=256, data_dir=data_dir).load()


def train_for(budget: float, recipe: Any, info: DataInfo, examples: Any, run: Path, codec: Any = None) -> None:
    """Train for `budget` CPU seconds of steps, and leave what it cost in RUN/cost.json."""
    if (run / "cost.json").exists():
        return
    order = Batches(split=examples, batch_size=recipe.batch_size, seed=recipe.seed)
    model = Model(recipe, info, codec)
    step, state, key = jax.jit(model.step(), donate_argnums=0), model.fresh_state(), jax.random.key(0)
    began = time.process_time()
    for i in range(WARM + PROBE):
        if i == WARM:
            began = time.process_time()
        state, metrics = step(state, key, order[i])
        jax.block_until_ready(metrics)
    each = (time.process_time() - began) / PROBE
    steps = max(1, round(budget / each))
    print(f"{run.name}: {each:.3f} CPU s a step, {steps} steps", file=sys.stderr, flush=True)
    timed = dataclasses.replace(recipe, steps=steps, checkpoint_every=steps)
    began = time.process_time()
    result = train.run(timed, (order[i] for i in itertools.count()), run, info=info, codec=codec, overwrite=True)
    cost = {
        "budget": budget,
        "steps": steps,
        "examples": steps * recipe.batch_size,
        "parameters": result.summary["parameters"],
        "cpu_seconds_a_step": round(each, 4),
        "cpu_seconds_with_compilation_and_pictures": round(time.process_time() - began, 1),
        "wall_seconds": result.summary["seconds"],
    }
    (run / "cost.json").write_text(json.dumps(cost, indent=1) + "\n")


def train_stage(stage: str, images: Images, arguments: argparse.Namespace) -> None:
    info, runs = DataInfo.of(images), arguments.runs
    folder: Any = Folder(folder=arguments.folder, size=128, tile=64, tiles=256, data_dir=arguments.data_dir)
    first, second = arguments.autoencoder, arguments.diffusion
    if stage == "autoencoder":
        recipe = dataclasses.replace(recipes.get("autoencoder"), data=folder)
        train_for(first, recipe, info, images.train, runs / stage)
    elif stage == "latent":
        latents = str(runs / "autoencoder")
        recipe = dataclasses.replace(recipes.get("latent"), data=folder, latents=latents)
        info, examples, codec = encoded(recipe, info, images.train)
        train_for(second, recipe, info, examples, runs / stage, codec)
    else:
        recipe = dataclasses.replace(recipes.get("latent"), data=folder, latents=None, network=PIXELS[stage])
        train_for(first + second, recipe, info, images.train, runs / stage)


def judge(images: Images, arguments: argparse.Namespace) -> dict[str, Any]:
    """The figures of every set, and the picture."""
    runs: Path = arguments.runs
    cost = lambda stage: json.loads((runs / stage / "cost.json").read_text())
    train_tiles, test = np.asarray(images.train.images[:]), np.asarray(images.test.images[:])
    count = len(test)
    order = np.random.default_rng(0).permutation(len(train_tiles))
    kept, rest = train_tiles[order[:count]], train_tiles[order[count:]]
    autoencoder, params, _ = load(runs / "autoencoder")
    sets: dict[str, Any] = {
        "other training tiles": kept,
        "held-out tiles": test,
        "training tiles through the autoencoder": codes.reconstruct(autoencoder, params, kept),
    }
    about, trained = {}, [stage for stage in STAGES[1:-1] if (runs / stage / "cost.json").exists()]
    for stage in trained:
        model, average, _ = load(runs / stage)
        began = time.process_time()
        sets[NAMES[stage]], nfe = model.draw(average, None, count, sampler=model.recipe.sampler, batch_size=64)
        spent = time.process_time() - began
        about[NAMES[stage]] = {**cost(stage), "nfe": nfe, "cpu_seconds_of_samples": round(spent, 1)}
        print(f"drew {count} of {stage}", file=sys.stderr, flush=True)
    judges = [train_judge(train_tiles, None, 4, seed=seed, cache_dir=runs) for seed in range(JUDGES)]
    features = lambda tiles: [judge.features(tiles) for judge in judges]
    real, unseen = features(rest), features(test)
    unit = lambda tiles: tiles.reshape(len(tiles), -1) / 255.0
    figures = {}
    for name, tiles in sets.items():
        own = features(tiles)
        pairs = lambda metric, other, own=own: [float(metric(a, b)) for a, b in zip(own, other, strict=True)]
        row = {"frechet_train": pairs(frechet_distance, real), "kernel_train": pairs(kernel_distance, real)}
        if name != "held-out tiles":
            row |= {"frechet_test": pairs(frechet_distance, unseen), "kernel_test": pairs(kernel_distance, unseen)}
        row["nearest"] = [float(np.median(nearest_distance(unit(tiles), unit(rest))))]
        figures[name] = {key: {"mean": float(np.mean(v)), "judges": v} for key, v in row.items()}
    shown = np.linspace(0, count - 1, 10).astype(int)[:COLUMNS]
    rows = [test[shown], codes.reconstruct(autoencoder, params, test[shown])]
    rows += [sets[NAMES[stage]][10 * i : 10 * i + COLUMNS] for stage in trained for i in range(2)]
    arguments.picture.write_bytes(pictures.grid(np.concatenate(rows), COLUMNS))
    return {
        "about": {
            "pictures": len(list(Path(arguments.folder).iterdir())),
            "training_tiles": len(train_tiles),
            "samples": count,
            "solver": "DPMpp2M, 20 steps",
            "judges": [judge.accuracy(test) for judge in judges],
            "checksum": images.checksum,
            **results_file.about(),
        },
        "codes": {
            "held-out tiles": reconstruction.compare(autoencoder, params, train_tiles, test)[1],
            "training tiles": reconstruction.compare(autoencoder, params, train_tiles, kept)[1],
        },
        "training": {"autoencoder": cost("autoencoder"), **about},
        "sets": figures,
    }


def table(result: dict[str, Any]) -> str:
    """Two tables in Markdown: the codes, and the sets of tiles."""
    lines = ["| code | numbers | held-out: PSNR, SSIM | training tiles: PSNR, SSIM |", "|---|---|---|---|"]
    held, known = result["codes"].values()
    cell = lambda row: f"{row['psnr']:.2f} dB, {row['ssim']:.3f}"
    lines += [f"| {k} | {row['numbers']} | {cell(row)} | {cell(known[k])} |" for k, row in held.items()]
    keys = ("frechet_train", "kernel_train", "frechet_test", "kernel_test", "nearest")
    lines += ["", "| tiles | " + " | ".join(keys) + " |", "|---" * (len(keys) + 1) + "|"]
    for name, row in result["sets"].items():
        cells = [f"{row[key]['mean']:.3g}" if key in row else "-" for key in keys]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True, help="of pictures")
    parser.add_argument("--data-dir", default=None, help="where prepared tiles lie")
    parser.add_argument("--runs", type=Path, default=Path("runs/latent-benchmark"), help="%(default)s")
    parser.add_argument("--stage", choices=STAGES, action="append", help="all of them by default")
    parser.add_argument("--autoencoder", type=float, default=400.0, help="CPU seconds of its training; %(default)s")
    parser.add_argument("--diffusion", type=float, default=300.0, help="the same in latents; %(default)s")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/latent.json"), help="%(default)s")
    parser.add_argument("--picture", type=Path, default=Path("docs/pictures/latent.png"), help="%(default)s")
    arguments = parser.parse_args()
    images = images_of(arguments.folder, arguments.data_dir)
    for stage in arguments.stage or STAGES:
        if stage == "judge":
            result = judge(images, arguments)
            results_file.write(arguments.json, result)
            print(table(result))
        else:
            train_stage(stage, images, arguments)


if __name__ == "__main__":
    main()
