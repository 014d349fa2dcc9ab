"""SciTLDR, extractive: which sentence of an abstract to keep, by masked diffusion over labels.

python -m experiments.train summarize --data.raw-dir DIR    # train.jsonl and so on, or nothing to download them
python -m experiments.evaluate runs/summarize
python -m experiments.sample runs/summarize --count 1 --prompt "$(cat abstract.txt)"

A minute on two CPU cores. Expected: ROUGE-1 of 0.384 (best over references), between a cue phrase's 0.379 and boosted
trees' 0.388.
"""

from experiments.networks import Transformer
from experiments.processes import Masked
from experiments.recipe import Optimizer, Recipe, Sampler
from experiments.text import KeptSentences
from jaxdiff import grids, solvers


def recipe() -> Recipe:
    return Recipe(
        data=KeptSentences(),
        network=Transformer(width=64, depth=3, heads=2, time=False, dropout=0.2),
        process=Masked(),
        optimizer=Optimizer(learning_rate=1e-3, warmup=100, weight_decay=0.1),
        batch_size=128,
        steps=600,
        ema=0.995,
        sampler=Sampler(solver=solvers.FirstHitting(), grid=grids.uniform, steps=28),
    )
