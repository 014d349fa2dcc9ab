"""28x28 pictures of clothes: ten minutes of CPU time (six on two cores), seconds on a GPU.

python -m experiments.train fashion_mnist                      downloads the four published files
python -m experiments.train fashion_mnist --data.raw-dir DIR   uses files that are already here
python -m experiments.evaluate runs/fashion_mnist
"""

from experiments.data import FashionMnist
from experiments.networks import UNet
from experiments.recipe import Evaluation, Optimizer, Recipe, Sampler
from jaxdiff import Gaussian, predictions, schedules


def recipe() -> Recipe:
    return Recipe(
        data=FashionMnist(),
        network=UNet(channels=32, multipliers=(1, 2), patch=2, blocks=1, attention=(7,), head_dim=32),
        process=Gaussian(schedule=schedules.Cosine(), prediction=predictions.v()),
        optimizer=Optimizer(learning_rate=2e-3, warmup=100),
        batch_size=64,
        steps=1200,
        sampler=Sampler(steps=20),
        evaluation=Evaluation(samples=2000, judges=1),
    )
