"""Replies of a dialogue, given the user's turn and what is to be said, by masked diffusion.

python -m experiments.train dialogue --data.raw-dir DIR    # the corpus's files, or nothing to download them
python -m experiments.evaluate runs/dialogue
python -m experiments.sample runs/dialogue --prompt "user: Any place to eat?\\nsay: OFFER(restaurant_name=Sino)"
python -m experiments.train dialogue --data.corpus chatterbot --out runs/chatterbot
"""

from experiments.networks import Transformer
from experiments.processes import Masked
from experiments.recipe import Optimizer, Recipe, Sampler
from experiments.text import Replies
from jaxdiff import grids, solvers


def recipe() -> Recipe:
    return Recipe(
        data=Replies(),
        network=Transformer(width=192, depth=4, heads=3, time=False, dropout=0.1),
        process=Masked(),
        optimizer=Optimizer(learning_rate=2e-3, warmup=100, weight_decay=0.1),
        batch_size=64,
        steps=800,
        ema=0.99,
        sampler=Sampler(solver=solvers.FirstHitting(), grid=grids.uniform, steps=32),
    )
