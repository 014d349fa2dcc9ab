"""What a network of pictures is told in training, and then may be told of each sample; any subset of it at once.

Small pictures and known pixels are made from the data on the way into the network, a new one for each example and
epoch, from the example's own key: no data set of pairs is needed, and the numbers do not depend on the layout.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from experiments.errors import UserError
from jaxdiff import noise
from jaxdiff.conditioning.operators import AveragePool
from jaxdiff.training import Objective
from jaxdiff.types import Condition, Denoiser, Schedule, Time, expand, pytree

Hole: TypeAlias = Literal["center", "box", "outside"]
_TOLD = 3  # stream of an example's key, beside those of `jaxdiff.training`


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conditions:
    """What the network is told, each left out at times so that any subset serves."""

    label: bool = True
    """The class, where the data have classes."""
    smaller: tuple[int, ...] = ()
    """Super-resolution: the picture, so many times smaller along each side; 2 4 takes both."""
    residual: bool = False
    """Learn only what the small picture lacks, see `Residual`; --process.prediction.sigma-data is then of the rest."""
    holes: tuple[Hole, ...] = ()
    """Inpainting: all pixels but a square in the center of half the size, but a box anywhere, or outside of a box."""
    embeddings: str | None = None
    """A .npy file with a row for each training example, in the order of the data: a vector, or a sequence of them."""

    def __post_init__(self):
        if any(factor < 2 for factor in self.smaller):
            raise ValueError(f"--conditions.smaller are factors of at least 2, got {self.smaller}")
        if self.residual and (self.holes or not self.smaller):
            raise ValueError("--conditions.residual is what a picture made --conditions.smaller lacks, without holes")

    @property
    def restores(self) -> bool:
        """Whether the network learns to restore pictures."""
        return bool(self.smaller or self.holes)

    def features(self, shape: tuple[int, ...], row: tuple[int, ...] = ()) -> dict[str, Any]:
        """The arguments of a network for pictures of `shape` and rows of embeddings of shape `row`; {} for none.

        Raises:
            ValueError: pictures that a factor does not divide, or data that are none; rows of more than two axes.
        """
        if self.restores and len(shape) != 3:
            raise ValueError(f"--conditions.smaller and --conditions.holes are for pictures, got data of shape {shape}")
        for factor in self.smaller:
            if shape[0] % factor or shape[1] % factor:
                raise ValueError(
                    f"--conditions.smaller must divide the pictures' {shape[0]} x {shape[1]} pixels, got {factor}"
                )
        if len(row) > 2:
            raise ValueError(f"embeddings must be (N, E) vectors or (N, S, F) sequences, got rows of shape {row}")
        kind = "embedding_features" if len(row) == 1 else "context_features"
        wanted = {"image_features": shape[-1]} if self.smaller else {}
        wanted |= {"clocks": True} if self.holes else {}
        return wanted | ({kind: row[-1]} if row else {})

    def null(self, classes: int, row: tuple[int, ...] = ()) -> Any:
        """The null condition: a label alone where nothing else is told, None where nothing is."""
        parts: dict[str, Any] = {"label": np.int32(classes)} if classes else {}
        parts |= {"image": np.float32(0)} if self.smaller else {}
        parts |= {"embedding" if len(row) == 1 else "context": np.float32(0)} if row else {}
        return parts.get("label") if parts.keys() <= {"label"} else parts

    def told(self, objective: Objective, null: Any, dropout: float) -> Objective:
        """`objective` with what the network is told put into each batch.

        Every part is left out at rate `dropout`, by itself and again all together: what guidance compares with. Labels
        alone are the objective's own affair.
        """
        if self.label and not isinstance(null, dict) and not self.holes:
            return objective

        def with_conditions(apply, params, ema, keys, batch, t):
            source = lambda i: noise.fold(noise.fold(keys, _TOLD), i)
            x0, cond = batch["x0"], batch.get("cond")
            parts = dict(cond) if isinstance(cond, Mapping) else {"label": cond}
            if self.smaller:
                parts["image"] = made_smaller(source(0), x0, self.smaller)
            names = sorted(null) if isinstance(null, dict) else []
            together, single = _coins(source(2), dropout), len(names) + bool(self.holes) == 1
            coins = lambda i: together if single else together | _coins(source(3 + i), dropout)
            cond = {name: _left_out(coins(i), parts[name], null[name]) for i, name in enumerate(names)}
            batch = {**batch, "cond": cond or (None if null is None else parts["label"])}
            if self.residual:
                batch["x0"] = x0 - cond["image"]
            if self.holes:
                known = known_pixels(source(1), x0.shape[1:3], self.holes)
                batch["observed"] = known & ~coins(len(names))[:, None, None]
            return objective(apply, params, ema, keys, batch, t)

        return with_conditions


@pytree
class Residual:
    """E[x0 | x_t] = m + E[r | x_t - alpha m] with r = x0 - m, from a denoiser of r (arXiv 2104.14951, sec. 3.2).

    m is `cond["image"]`, and 0 where none is given. What the network has to say is then small, and the noise of the
    process, which is the same for x0 and r, is large beside it: `schedules.Shifted` makes it smaller.
    """

    denoise: Denoiser
    schedule: Schedule

    def __call__(self, x: Float[Array, "B ..."], t: Time, cond: Condition = None) -> Float[Array, "B ..."]:
        m = cond.get("image", 0.0) if isinstance(cond, Mapping) else 0.0
        alpha, _ = self.schedule(t)
        return m + self.denoise(x - expand(alpha, x) * m, t, cond)


def enlarged(small: Float[Array, "B h w C"], size: tuple[int, int]) -> Float[Array, "B H W C"]:
    """A small picture at the size of a large one, by cubic interpolation: how the network is told it."""
    return jax.image.resize(small, (small.shape[0], *size, small.shape[-1]), "cubic")


def made_smaller(
    keys: Key[Array, " B"], x0: Float[Array, "B H W C"], factors: tuple[int, ...]
) -> Float[Array, "B H W C"]:
    """Each picture made smaller by one of the factors, drawn for each, and enlarged again."""
    pictures = jnp.stack([enlarged(AveragePool(factor=factor)(x0), (x0.shape[1], x0.shape[2])) for factor in factors])
    return pictures[_drawn(keys, len(factors)), jnp.arange(x0.shape[0])]


def known_pixels(keys: Key[Array, " B"], size: tuple[int, int], holes: tuple[Hole, ...]) -> Bool[Array, "B H W"]:
    """True where a pixel is known, for holes of kinds drawn for each example.

    Boxes have sides of a quarter to three quarters of the picture, drawn uniformly as are their places.
    """
    numbers = noise.uniform(noise.fold(keys, 1), (keys.shape[0], 4))
    rows, columns = (_between(numbers[:, 2 * i], numbers[:, 2 * i + 1], size[i]) for i in range(2))
    box = rows[:, :, None] & columns[:, None, :]
    known = {"center": jnp.broadcast_to(~center(size), box.shape), "box": ~box, "outside": box}
    choices = jnp.stack([known[hole] for hole in holes])
    return choices[_drawn(noise.fold(keys, 0), len(holes)), jnp.arange(box.shape[0])]


def center(size: tuple[int, int]) -> Bool[Array, "H W"]:
    """True in the box of half the height and half the width in the middle."""
    (top, rows), (left, columns) = (((n - n // 2) // 2, n // 2) for n in size)
    return jnp.zeros(size, bool).at[top : top + rows, left : left + columns].set(True)


def read_embeddings(path: str, examples: int | None = None) -> np.ndarray:
    """The rows of a .npy file as float32 (N, E) or (N, S, F).

    Raises:
        UserError: no such file, no array of numbers, or another number of rows than `examples`.
    """
    try:
        rows = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"needed a .npy file with an array of numbers, got {path}: {error}") from error
    if rows.ndim not in (2, 3) or not np.issubdtype(rows.dtype, np.floating):
        raise UserError(
            f"{path} must hold float vectors (N, E) or sequences (N, S, F), got {rows.dtype}{list(rows.shape)}"
        )
    if examples is not None and len(rows) != examples:
        raise UserError(f"{path} has {len(rows)} rows and the data {examples} training examples; make a row for each")
    return rows.astype(np.float32)


def _between(share: Float[Array, " B"], place: Float[Array, " B"], size: int) -> Bool[Array, "B N"]:
    """A stretch of a quarter to three quarters of `size`, at a random place."""
    length = jnp.round((0.25 + 0.5 * share) * size).astype(jnp.int32)
    start = jnp.floor(place * (size - length + 1)).astype(jnp.int32)
    places = jnp.arange(size)
    return (places >= start[:, None]) & (places < (start + length)[:, None])


def _drawn(keys: Key[Array, " B"], count: int) -> Int[Array, " B"]:
    """One of `count`, uniformly, for each example."""
    return jax.vmap(lambda key: jax.random.randint(key, (), 0, count))(keys)


def _coins(keys: Key[Array, " B"], rate: float) -> Bool[Array, " B"]:
    return jax.vmap(lambda key: jax.random.bernoulli(key, rate))(keys)


def _left_out(coins: Bool[Array, " B"], part: Any, null: Any) -> Any:
    return jnp.where(coins.reshape((-1,) + (1,) * (part.ndim - 1)), null, part)
