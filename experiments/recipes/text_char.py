"""Characters of tiny Shakespeare by masked diffusion; its figures are not measured yet.

python -m experiments.train text_char --data.raw-dir DIR    # input.txt, or nothing to download it
python -m experiments.evaluate runs/text_char
python -m experiments.sample runs/text_char --prompt "ROMEO:"
"""

from experiments.networks import Transformer
from experiments.processes import Masked
from experiments.recipe import Optimizer, Recipe, Sampler
from experiments.text import TinyShakespeare
from jaxdiff import grids, solvers


def recipe() -> Recipe:
    return Recipe(
        data=TinyShakespeare(length=128),
        network=Transformer(width=192, depth=5, heads=3, time=False),
        process=Masked(),
        optimizer=Optimizer(learning_rate=2e-3, warmup=200, weight_decay=0.01),
        batch_size=64,
        steps=3000,
        sampler=Sampler(solver=solvers.Ancestral(), grid=grids.uniform, steps=128),
    )
