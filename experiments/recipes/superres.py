"""Super-resolution of 28x28 pictures of clothes, 2 and 4 times by one network: a quarter of an hour of two CPU cores.

python -m experiments.train superres --data.raw-dir DIR
python -m experiments.train superres --data mnist --data.raw-dir DIR
python -m experiments.evaluate runs/superres
python -m experiments.restore runs/superres --task superres --factor 4 --image FILE
"""

from experiments.conditions import Conditions
from experiments.data import FashionMnist
from experiments.networks import UNet
from experiments.recipe import Evaluation, Optimizer, Recipe, Sampler
from jaxdiff import Gaussian, grids, predictions, schedules, solvers

SPREAD = 0.4  # a little more than that of what small pictures lack, 0.25; pictures themselves lie in [-1, 1]


def recipe() -> Recipe:
    return Recipe(
        data=FashionMnist(),
        network=UNet(channels=32, multipliers=(1, 2), patch=2, blocks=1, attention=()),
        process=Gaussian(
            schedule=schedules.Shifted(base=schedules.Cosine(), shift=SPREAD),
            prediction=predictions.edm(sigma_data=SPREAD),
        ),
        learned_weighting=True,
        optimizer=Optimizer(learning_rate=4e-3, warmup=100),
        conditions=Conditions(label=False, smaller=(2, 4), residual=True),
        cond_dropout=0.0,  # an example that is told nothing has so large an error that it outweighs the others
        batch_size=64,
        steps=3000,
        sampler=Sampler(solver=solvers.Ancestral(), grid=grids.karras, steps=25),
        evaluation=Evaluation(samples=2000, judges=1),
    )
