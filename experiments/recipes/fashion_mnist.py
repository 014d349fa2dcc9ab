"""28x28 pictures of clothes: ten minutes of CPU time (six on two cores), seconds on a GPU.

python -m experiments.train fashion_mnist                      downloads the four published files
python -m experiments.train fashion_mnist --data.raw-dir DIR   uses files that are already here
python -m experiments.evaluate runs/fashion_mnist

Expected, with 2,000 samples at guidance scale 1 and one judge: Frechet ratio 42 (62 for a Gaussian a class), class
consistency 0.84, recall 0.45 (0.25); two x86 CPU cores. It is a start, not a converged model: --steps 20000 on a GPU.
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
