"""Inpainting of 28x28 pictures of clothes, a middle square or any box: a quarter of an hour of two CPU cores.

python -m experiments.train inpaint --data.raw-dir DIR
python -m experiments.train inpaint --data mnist --data.raw-dir DIR
python -m experiments.evaluate runs/inpaint
python -m experiments.restore runs/inpaint --task inpaint --image FILE --mask FILE
"""

import dataclasses

from experiments.conditions import Conditions
from experiments.recipe import Recipe
from experiments.recipes.superres import recipe as superres
from jaxdiff import Gaussian, predictions, schedules

SPREAD = 0.35  # of what is unknown of a hole's pixels, which lie in [-1, 1]


def recipe() -> Recipe:
    return dataclasses.replace(
        superres(),
        process=Gaussian(schedule=schedules.Shifted(base=schedules.Cosine(), shift=SPREAD), prediction=predictions.v()),
        conditions=Conditions(label=False, holes=("center", "box")),
    )
