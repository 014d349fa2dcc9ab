"""The forward process on real data, for people to look at."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.model import Model
from jaxdiff import noise


def forward(model: Model, examples: np.ndarray, steps: int = 12) -> list[jax.Array]:
    """What the network sees of `examples` at steps + 1 times of one forward path, drawn transition by transition."""
    process = model.process
    keys = noise.sample_keys(jax.random.key(0), len(examples))
    times = jnp.linspace(0.0, 1.0, steps + 1)
    frames, move = [jnp.asarray(examples)], jax.jit(lambda *args: process.forward(*args))
    for i, (s, t) in enumerate(itertools.pairwise(times)):
        frames.append(move(noise.fold(keys, i), frames[-1], s, t))
    # A variance-exploding x_t leaves the pixel range: show it at unit variance.
    return [process.inputs(x, t) for x, t in zip(frames, times, strict=True)]
