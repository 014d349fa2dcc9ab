"""Pictures of tokens, such as levels of grey: a network of real channels sees them one-hot and gives logits.

One-hot channels say nothing of an order, so they serve masks too, and any alphabet that is small.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key, Shaped

from jaxdiff.networks.checks import check_inputs
from jaxdiff.types import Condition, Time


class OneHot(nnx.Module):
    """A network of pictures (B, H, W, C) for tokens of the same shape: C V channels go in, C K come out.

    Args:
        make: `(shape, out_channels=, rngs=) -> network`, for example `partial(UNet, channels=32, num_classes=10)`.
        shape: (H, W, C) of the tokens.
        tokens: K, values of the data: the network gives K logits a token.
        states: V >= K, values of noisy tokens; K + 1 by default, of which the last is a mask.
        rngs: where the initial parameters come from.

    Raises:
        ValueError: fewer states than tokens, or what `make` refuses.

    Example:
        >>> rngs = nnx.Rngs(0)
        >>> network = OneHot(partial(UNet, channels=16, multipliers=(1,)), (8, 8, 1), tokens=2, rngs=rngs)
        >>> network(jnp.zeros((3, 8, 8, 1), jnp.int32), 0.5).shape
        (3, 8, 8, 1, 2)
    """

    def __init__(
        self,
        make: Callable[..., nnx.Module],
        shape: tuple[int, int, int],
        *,
        tokens: int,
        states: int | None = None,
        rngs: nnx.Rngs,
    ):
        self.shape, self.tokens, self.states = tuple(shape), tokens, tokens + 1 if states is None else states
        if tokens < 1 or self.states < tokens:
            raise ValueError(f"states must be at least tokens, and those 1, got tokens={tokens} and states={states}")
        channels = shape[-1]
        self.network = make((*shape[:-1], channels * self.states), out_channels=channels * tokens, rngs=rngs)

    def __call__(
        self,
        x: Shaped[Array, "B ..."],
        t: Time,
        cond: Condition = None,
        *,
        s: Time | None = None,
        key: Key[Array, "..."] | None = None,
    ) -> Float[Array, "B ..."]:
        """Logits of x0, float32 (B, H, W, C, K).

        Args:
            x: integer tokens (B, H, W, C) in [0, states). A token outside gives NaN.
            t, cond, s, key: as the network takes them.

        Raises:
            ValueError: other tokens than these, or what the network refuses.
        """
        shape = self.shape
        check_inputs(x, 0.0, None, None, None, shape=shape, num_classes=0, two_times=False, states=self.states)
        rows = jnp.where(((x >= 0) & (x < self.states))[..., None], jax.nn.one_hot(x, self.states), jnp.nan)
        output = self.network(rows.reshape(*x.shape[:-1], -1), t, cond, s=s, key=key)
        return output.reshape(*x.shape, self.tokens)
