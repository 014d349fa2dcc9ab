"""Linear operators with their adjoints: what was measured of the data, y = A x0 (+ noise).

`Chain` joins them, `Linear` makes one of any linear function; `protocol` says what an operator of your own needs.
"""

from jaxdiff.conditioning.operators.blur import Blur
from jaxdiff.conditioning.operators.chain import Chain, Linear
from jaxdiff.conditioning.operators.fourier import Fourier
from jaxdiff.conditioning.operators.mask import Mask
from jaxdiff.conditioning.operators.mix import Channels, Projection
from jaxdiff.conditioning.operators.pool import AveragePool
from jaxdiff.conditioning.operators.protocol import Operator, pseudo_inverse, solve

__all__ = [
    "AveragePool",
    "Blur",
    "Chain",
    "Channels",
    "Fourier",
    "Linear",
    "Mask",
    "Operator",
    "Projection",
    "pseudo_inverse",
    "solve",
]
