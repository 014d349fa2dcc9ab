"""What pictures may be conditioned on beside their class: other pictures, vectors, sequences; any subset at a call.

A condition is a dict with any of the keys `label`, `image`, `embedding`, `context`; integer labels alone stand for
`{"label": labels}`. What is left out is null: the null label, and zeros of all others (arXiv 2211.09800, sec. 3.2.1).
"""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from jaxdiff.types import Time, expand


class Given(NamedTuple):
    """The parts of one call's condition; a part that the network has no place for is None."""

    label: Any = None
    image: Float[Array, "B H W c"] | None = None
    embedding: Float[Array, "B E"] | None = None
    context: Float[Array, "B S F"] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conditions:
    """The conditions that a network of pictures was built for.

    Args:
        image: channels of a picture as large as x, joined to it: a mask, an enlarged small picture, a sketch.
        embedding: numbers of a vector that is added to the embedding of the time.
        context: features of each element of a sequence that every block which attends also attends to.

    Raises:
        ValueError: a negative number.
    """

    image: int = 0
    embedding: int = 0
    context: int = 0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 0:
                raise ValueError(
                    f"{field.name} must be the number of its features, 0 for none, got {getattr(self, field.name)}"
                )

    def parts(self, cond: Any, x: Shaped[Array, "B H W C"]) -> Given:
        """The parts of `cond` for a batch x, null where left out; labels go unchecked.

        Raises:
            ValueError: an unknown key, a condition that the network has no place for, or one of another shape.
        """
        given = dict(cond) if isinstance(cond, dict) else {"label": cond}
        if unknown := given.keys() - set(Given._fields):
            raise ValueError(
                f"cond has the keys {', '.join(Given._fields)}, got {', '.join(map(str, sorted(unknown)))} as well; "
                "leave it out or rename it"
            )
        size, height, width = x.shape[:3]
        shapes = {"image": (height, width), "embedding": (), "context": (None,)}
        parts = {name: self._part(name, given.get(name), (size, *axes)) for name, axes in shapes.items()}
        return Given(label=given.get("label"), **parts)

    def _part(self, name: str, value: Any, axes: tuple[int | None, ...]) -> Array | None:
        features = getattr(self, name)
        if not features:
            if value is not None:
                raise ValueError(
                    f"cond has {name}, and this network no place for it; build it with {name}_features=..., or leave "
                    "it out"
                )
            return None
        if value is None:
            return jnp.zeros((*(axis or 1 for axis in axes), features))
        shape = jnp.shape(value)
        wanted = (*axes, features)
        fits = len(shape) == len(wanted) and all(b in (a, None) for a, b in zip(shape, wanted, strict=True))
        if not fits or not jnp.issubdtype(jnp.result_type(value), jnp.floating):
            named = ", ".join("S" if axis is None else str(axis) for axis in wanted)
            hint = "; resize it first, for example with jax.image.resize" if name == "image" else ""
            raise ValueError(
                f"the condition {name} must be floating with shape ({named}), got "
                f"{jnp.result_type(value)}{list(shape)}{hint}"
            )
        return jnp.asarray(value, jnp.float32)


def label_of(cond: Any) -> Any:
    """The labels of a condition, or None."""
    return cond.get("label") if isinstance(cond, dict) else cond


def latest(t: Time) -> Float[Array, "..."]:
    """A time of shape () or (B,): the latest of each example's clocks."""
    clock = jnp.asarray(t)
    return clock.max(tuple(range(1, clock.ndim))) if clock.ndim > 1 else clock


def joined(
    x: Float[Array, "B H W C"], t: Time | None, image: Float[Array, "B H W c"] | None
) -> Float[Array, "B H W D"]:
    """The picture x with its clocks, one for each of its numbers, and with another picture as further channels."""
    parts = [x]
    if t is not None:
        parts.append(jnp.broadcast_to(expand(t, x), x.shape).astype(x.dtype))
    if image is not None:
        parts.append(image.astype(x.dtype))
    return jnp.concatenate(parts, -1) if len(parts) > 1 else x
