"""A folder of your own pictures, resized and cropped; its sub-folders are the classes if there are any.

python -m experiments.train folder --data.folder DIR --data.size 32
python -m experiments.sample runs/folder
"""

from experiments.data import Folder
from experiments.networks import UNet
from experiments.recipe import Optimizer, Recipe, Sampler
from jaxdiff import Gaussian, predictions, schedules


def recipe() -> Recipe:
    return Recipe(
        data=Folder(folder="pictures", size=32),
        network=UNet(channels=64, multipliers=(1, 2, 2), blocks=2, attention=(8,), dropout=0.1),
        process=Gaussian(schedule=schedules.Cosine(), prediction=predictions.v()),
        optimizer=Optimizer(learning_rate=5e-4, warmup=500),
        batch_size=64,
        steps=20_000,
        ema=0.9995,
        flip=True,
        sampler=Sampler(steps=30),
        checkpoint_every=2000,
    )
