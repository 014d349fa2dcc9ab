"""28x28 handwritten digits: ten minutes of CPU time (six on two cores), seconds on a GPU.

python -m experiments.train mnist                              downloads the four published files
python -m experiments.train mnist --data.raw-dir DIR           uses files that are already here
python -m experiments.evaluate runs/mnist
"""

import dataclasses

from experiments.data import Mnist
from experiments.recipe import Recipe
from experiments.recipes.fashion_mnist import recipe as fashion_mnist


def recipe() -> Recipe:
    return dataclasses.replace(fashion_mnist(), data=Mnist())
