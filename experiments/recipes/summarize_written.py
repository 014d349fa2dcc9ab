"""SciTLDR, abstractive: a summary of one sentence is written anew, by masked diffusion given the abstract.

python -m experiments.train summarize_written --data.raw-dir DIR
python -m experiments.evaluate runs/summarize_written
python -m experiments.sample runs/summarize_written --count 2 --prompt "$(cat abstract.txt)"
"""

from experiments.networks import Transformer
from experiments.processes import Masked
from experiments.recipe import Optimizer, Recipe, Sampler
from experiments.text import WrittenSummaries
from jaxdiff import grids, solvers


def recipe() -> Recipe:
    return Recipe(
        data=WrittenSummaries(),
        network=Transformer(width=192, depth=4, heads=3, time=False, dropout=0.1),
        process=Masked(),
        optimizer=Optimizer(learning_rate=2e-3, warmup=100, weight_decay=0.1),
        batch_size=32,
        steps=800,
        ema=0.99,
        sampler=Sampler(solver=solvers.Ancestral(), grid=grids.uniform, steps=48),
    )
