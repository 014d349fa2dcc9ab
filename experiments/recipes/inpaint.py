"""Inpainting of 28x28 pictures of clothes, a square in the middle or a box anywhere: ten minutes of two CPU cores.

python -m experiments.train inpaint --data.raw-dir DIR
python -m experiments.train inpaint --data mnist --data.raw-dir DIR
python -m experiments.evaluate runs/inpaint
python -m experiments.restore runs/inpaint --task inpaint --image FILE --mask FILE
"""

import dataclasses

from experiments.conditions import Conditions
from experiments.recipe import Recipe
from experiments.recipes.superres import recipe as superres


def recipe() -> Recipe:
    return dataclasses.replace(superres(), conditions=Conditions(label=False, holes=("center", "box")))
