"""An autoencoder of tiles of your own pictures, in whose latents the recipe `latent` diffuses.

python -m experiments.train autoencoder --data.folder DIR --data.size 128 --data.tile 64
python -m experiments.evaluate runs/autoencoder                                  PSNR beside bicubic and PCA
python -m experiments.train latent --latents runs/autoencoder --data.folder DIR --data.size 128 --data.tile 64

Expected of 1,562 steps on 16 panoramas (seven minutes of one x86 core): 23.3 dB on tiles of two others, where bicubic
has 21.3 and PCA of squares 23.6; see docs/latent.md.

Any other recipe of pictures becomes one by `--network autoencoder`. Sampler, process and weighting are not used.
"""

from experiments.data import Folder
from experiments.networks import Autoencoder
from experiments.recipe import Optimizer, Recipe
from jaxdiff import Gaussian, schedules


def recipe() -> Recipe:
    return Recipe(
        data=Folder(folder="pictures", size=128, tile=64, tiles=256),
        network=Autoencoder(channels=32, multipliers=(1, 2), patch=2, blocks=1, latent=4),
        process=Gaussian(schedule=schedules.Cosine()),
        optimizer=Optimizer(learning_rate=2e-3, warmup=100),
        batch_size=16,
        steps=2000,
        ema=0.998,
    )
