"""Binarised MNIST as tokens by ordinal diffusion, with a bound on the likelihood beside exact ones of counting.

A pixel is 1 where the published one is at least one half: a threshold, not the random binarisation of many papers, so
figures are not theirs.

python -m experiments.train mnist_binary --data.raw-dir DIR
python -m experiments.evaluate runs/mnist_binary
python -m experiments.train mnist_binary --levels 8          # eight levels of grey
"""

import dataclasses

from experiments.processes import Ordinal
from experiments.recipe import Recipe, Sampler
from experiments.recipes.mnist import recipe as mnist
from jaxdiff import grids, solvers


def recipe() -> Recipe:
    sampler = Sampler(solver=solvers.Ancestral(), grid=grids.uniform, steps=64)
    return dataclasses.replace(mnist(), levels=2, process=Ordinal(), sampler=sampler, flip=False)
