"""32x32 colour pictures of ten kinds: for a GPU; a day of one, or an hour of eight, for good samples.

python -m experiments.train cifar10                            downloads the published binary archive
python -m experiments.train cifar10 --data.raw-dir DIR         uses the archive that is already here
python -m experiments.evaluate runs/cifar10
"""

from experiments.data import Cifar10
from experiments.networks import UNet
from experiments.recipe import Evaluation, Optimizer, Recipe, Sampler
from jaxdiff import Gaussian, predictions, schedules


def recipe() -> Recipe:
    return Recipe(
        data=Cifar10(),
        network=UNet(
            channels=128, multipliers=(1, 2, 2, 2), blocks=3, attention=(16, 8), dropout=0.1, dtype="bfloat16"
        ),
        process=Gaussian(schedule=schedules.Cosine(), prediction=predictions.v()),
        optimizer=Optimizer(learning_rate=5e-4, warmup=5000),
        batch_size=512,
        steps=200_000,
        ema=0.9999,
        flip=True,
        sampler=Sampler(steps=50),
        evaluation=Evaluation(samples=10_000),
        log_every=100,
        checkpoint_every=10_000,
    )
