"""A joint law of L tokens as a table of all K^L sequences: the exact denoiser of tokens, by enumeration.

p(x0_i = k | z) = sum over x0 with x0_i = k of p(x0) prod_j q(z_j | x0_j) / the same sum over all x0
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer, Key

from jaxdiff.types import Condition, Time, is_traced, pytree


@pytree
class EnumeratedTokens:
    """Any law of sequences of L tokens with K values each; memory and time are those of its table, K^L.

    Args:
        probabilities: (K, ..., K), L axes: not negative, of sum 1.

    Raises:
        ValueError: axes of unlike lengths, a negative entry, or another sum.
    """

    probabilities: Float[Array, "..."] | Float[np.ndarray, "..."]

    def __post_init__(self):
        shape = self.probabilities.shape
        if not shape or len(set(shape)) > 1:
            raise ValueError(f"probabilities must have one axis of length K for each token, got shape {shape}")
        if not is_traced(self.probabilities):
            p = np.asarray(self.probabilities, np.float64)
            if not (p >= 0).all() or abs(p.sum() - 1) > 1e-4:
                raise ValueError(
                    f"probabilities must have no negative entry and the sum 1, got a smallest entry of {p.min():g} "
                    f"and a sum of {p.sum():g}"
                )

    def sample(self, key: Key[Array, ""], size: int) -> Integer[Array, "B L"]:
        """`size` independent sequences, int32 (B, L)."""
        shape = self.probabilities.shape
        logits = jnp.log(jnp.asarray(self.probabilities).reshape(-1))
        flat = jax.random.categorical(key, logits, shape=(size,), mode="high")
        return jnp.stack(jnp.unravel_index(flat, shape), -1).astype(jnp.int32)

    def log_prob(self, x: Integer[Array, "B L"]) -> Float[Array, " B"]:
        """log p(x0 = x), in nats."""
        return jnp.log(jnp.asarray(self.probabilities)[tuple(jnp.moveaxis(x, -1, 0))])

    def denoise(self, z: Integer[Array, "B L"], process: Any, t: Time, cond: Condition = None) -> Float[Array, "B L K"]:
        """log p(x0_i = k | z_t = z) of each token given the whole noisy sequence, shape (B, L, K).

        Args:
            z: noisy tokens, int32 (B, L).
            process: gives `evidence(z, t)`, q(z_i | x0_i = k), such as `Discrete`.
            t: shape (), (B,) or (B, L); a token at t = 0 is known.
            cond: ignored.

        Returns:
            NaN where no sequence can become z at this time.
        """
        length, log_joint = self.probabilities.ndim, jnp.log(jnp.asarray(self.probabilities))
        evidence = jnp.log(process.evidence(z, t))
        for i in range(length):
            log_joint = log_joint + jnp.expand_dims(evidence[:, i], [j + 1 for j in range(length) if j != i])
        others = lambda i: tuple(j + 1 for j in range(length) if j != i)
        tokens = [jax.nn.logsumexp(log_joint, others(i)) for i in range(length)]
        return jax.nn.log_softmax(jnp.stack(tokens, 1))

    def denoiser(self, process: Any) -> "TokenDenoiser":
        """The exact denoiser `(z, t, cond) -> log p(x0_i | z_t)`, a pytree to hand to `sample`."""
        return TokenDenoiser(law=self, process=process)


@pytree
class TokenDenoiser:
    """The exact denoiser of a law of tokens under a process."""

    law: EnumeratedTokens
    process: Any

    def __call__(self, x: Integer[Array, "B L"], t: Time, cond: Condition = None) -> Float[Array, "B L K"]:
        return self.law.denoise(x, self.process, t, cond)
