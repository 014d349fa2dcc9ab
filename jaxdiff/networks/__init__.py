"""Networks as pure functions: `functional(make) -> (init, apply)` over Flax NNX modules.

Every module is called as `module(x, t, cond=None, *, s=None, key=None)` and gives float32 in prediction space, but for
the `Autoencoder`: `encoder_decoder(make) -> (init, encode, decode)`.
"""

from jaxdiff.networks.autoencoder import Autoencoder as Autoencoder
from jaxdiff.networks.autoencoder import encoder_decoder as encoder_decoder
from jaxdiff.networks.cache import cached as cached
from jaxdiff.networks.dit import DiT as DiT
from jaxdiff.networks.functional import functional as functional
from jaxdiff.networks.functional import in_compute_dtype as in_compute_dtype
from jaxdiff.networks.levels import OneHot as OneHot
from jaxdiff.networks.mlp import MLP as MLP
from jaxdiff.networks.transformer import Transformer as Transformer
from jaxdiff.networks.unet import UNet as UNet
