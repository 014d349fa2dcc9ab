"""Characters of tiny Shakespeare by Gaussian diffusion on analog bits (arXiv 2208.04202): numbers in place of tokens.

python -m experiments.train text_embed --data.raw-dir DIR    # input.txt, or nothing to download it
python -m experiments.sample runs/text_embed --count 3
python -m experiments.evaluate runs/text_embed               # samples only: it has no bound on text
"""

from experiments.networks import Transformer
from experiments.recipe import Optimizer, Recipe, Sampler
from experiments.text import TinyShakespeare
from jaxdiff import Gaussian, grids, predictions, schedules, solvers, weightings


def recipe() -> Recipe:
    return Recipe(
        data=TinyShakespeare(length=128, bits=True),
        network=Transformer(width=128, depth=4, heads=2),
        process=Gaussian(schedule=schedules.Cosine(), prediction=predictions.x0()),
        weighting=weightings.sigmoid(),
        optimizer=Optimizer(name="muon", learning_rate=5e-3, warmup=50),
        batch_size=64,
        steps=900,
        ema=0.99,
        sampler=Sampler(solver=solvers.Ancestral(), grid=grids.uniform, steps=128),
    )
