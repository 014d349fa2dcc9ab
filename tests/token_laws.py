"""Small laws of tokens and every kind of discrete process, for the tests of both.

Made anew for each test: JAX remembers a NumPy array that it has seen in double precision.
"""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import Discrete, oracles, schedules

K, L = 3, 2
TABLE = np.array([[0.30, 0.02, 0.08], [0.05, 0.20, 0.05], [0.04, 0.10, 0.16]])
PROCESSES = {
    "mask": lambda: Discrete.masked(K),
    "uniform": lambda: Discrete.uniform(K),
    "marginals": lambda: Discrete(pi=TABLE.sum(0)),
    "hybrid": lambda: Discrete.masked(K, uniform=0.4),
    "shifted": lambda: Discrete.masked(
        K, uniform=0.4, schedule=schedules.Shifted(base=schedules.RectifiedFlow(), shift=3.0)
    ),
}
CASES = pytest.mark.parametrize("name", PROCESSES)


def setting(name: str) -> tuple[Discrete, oracles.EnumeratedTokens]:
    return PROCESSES[name](), oracles.EnumeratedTokens(probabilities=TABLE.copy())


def sequences(values: int):
    return jnp.array(list(itertools.product(range(values), repeat=L)), jnp.int32)
