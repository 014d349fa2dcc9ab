"""28x28 handwritten digits: ten minutes of CPU time (six on two cores), seconds on a GPU.

python -m experiments.train mnist                              downloads the four published files
python -m experiments.train mnist --data.raw-dir DIR           uses files that are already here
python -m experiments.evaluate runs/mnist

Expected, with 2,000 samples at guidance scale 1 and one judge: Frechet ratio 15 (60 for a Gaussian a class), class
consistency 0.92, recall 0.77 (0.22); two x86 CPU cores. It is a start, not a converged model: --steps 20000 on a GPU.
"""

import dataclasses

from experiments.data import Mnist
from experiments.recipe import Recipe
from experiments.recipes.fashion_mnist import recipe as fashion_mnist


def recipe() -> Recipe:
    return dataclasses.replace(fashion_mnist(), data=Mnist())
