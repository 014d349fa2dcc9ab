"""Who sees whom in block diffusion (arXiv 2503.09573, sec. 3.3): entry (i, j) says whether token i sees token j.

Tokens of a block see one another and all earlier blocks. In training the noisy sequence and the clean one go through
the network at once: a noisy token sees its own block noisy and earlier ones clean, a clean token sees only clean ones.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


def block_causal(queries: Int[Array, " T"], keys: Int[Array, " S"], block: int) -> Bool[Array, "T S"]:
    """Of places in the sequence, queries (T,) and keys (S,): a query sees its own block and earlier ones."""
    return queries[:, None] // block >= keys // block


def two_streams(length: int, block: int) -> Bool[Array, "T T"]:
    """Of [noisy; clean], `length` tokens each: (2 length, 2 length)."""
    places = jnp.arange(length)
    up_to = block_causal(places, places, block)
    own = up_to & up_to.T
    return jnp.block([[own, up_to & ~own], [jnp.zeros_like(own), up_to]])
