"""Any image data set of TensorFlow Datasets by its name, once it is prepared in array_record form.

python -m experiments.train tfds --data.name oxford_flowers102 --data.size 32
python -m experiments.evaluate runs/tfds
"""

import dataclasses

from experiments.data import Tfds
from experiments.recipe import Recipe
from experiments.recipes.folder import recipe as folder


def recipe() -> Recipe:
    return dataclasses.replace(folder(), data=Tfds(name="cifar10", size=32))
