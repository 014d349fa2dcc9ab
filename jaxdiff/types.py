"""What the parts of the library say to each other: pytree classes, array types and protocols.

A time `t` has shape () or a *prefix* of the shape of the data it belongs to: () for one clock,
(B,) for one time per example, (B, T) for one per frame. `expand` is the only place that aligns the two.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, TypeVar, dataclass_transform, runtime_checkable

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, Key, PyTree, Shaped

Scalar: TypeAlias = float | int | Float[Array, ""] | Int[Array, ""]
"""A hyper-parameter: a Python number, or a traced scalar when one compilation must serve a sweep."""

Time: TypeAlias = float | Float[Array, "..."]
"""Time in [0, 1], 0 = data, 1 = noise; shape () or a prefix of the shape of the data."""

Data: TypeAlias = PyTree[Shaped[Array, "B ..."]]
"""One array, or a pytree of arrays, with the batch as the leading axis."""

Spec: TypeAlias = PyTree[jax.ShapeDtypeStruct]
"""Shapes and dtypes of a batch of data, batch axis included."""

Noise: TypeAlias = Key[Array, " B"] | Float[Array, "draws B ..."]
"""A noise source: one typed key per sample, or standard normals supplied by the caller."""

Params: TypeAlias = PyTree[Shaped[Array, "..."]]
Condition: TypeAlias = PyTree[Any] | None

T = TypeVar("T", bound=type)

_CLASSES: set[type] = set()  # those made by `pytree`


def static(**kwargs: Any) -> Any:
    """A field of a `pytree` class that is part of its structure: changing it recompiles."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


def per_sample(**kwargs: Any) -> Any:
    """A field whose leaves belong to the samples of a batch: shape (B, ...), or () or (1, ...) where samples share it.

    It tells `batch_axes` what goes with a sample to its device; nothing else depends on it.
    """
    return dataclasses.field(metadata={"per_sample": True}, **kwargs)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(static, per_sample))
def pytree(cls: T) -> T:
    """Make `cls` a frozen, keyword-only dataclass whose fields are leaves, except those marked `static`.

    JAX rebuilds instances without calling `__init__`, so `__post_init__` checks only what a user constructs.
    """
    cls = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    leaves = [f.name for f in dataclasses.fields(cls) if not f.metadata.get("static")]
    statics = [f.name for f in dataclasses.fields(cls) if f.metadata.get("static")]

    def flatten_with_keys(tree):
        children = [(jax.tree_util.GetAttrKey(name), getattr(tree, name)) for name in leaves]
        return children, tuple(getattr(tree, name) for name in statics)

    def flatten(tree):
        return [getattr(tree, name) for name in leaves], tuple(getattr(tree, name) for name in statics)

    def unflatten(aux, children):
        tree = object.__new__(cls)
        for name, value in zip((*leaves, *statics), (*children, *aux), strict=True):
            object.__setattr__(tree, name, value)
        return tree

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    _CLASSES.add(cls)
    return cls


def batch_axes(tree: Any, size: int) -> Any:
    """`tree` with 0 in place of each leaf that has `size` samples along its first axis, and None of every other.

    Only `per_sample` fields of `pytree` classes have such leaves: parameters never do, whatever their shape. The result
    is what `jax.pmap` and `jax.vmap` take as `in_axes`.

    Raises:
        ValueError: a leaf of a `per_sample` field for another number of samples.
    """

    def axis(leaf: Any) -> int | None:
        shape = jnp.shape(leaf)
        if not shape or shape[0] == 1 != size:
            return None
        if shape[0] != size:
            raise ValueError(
                f"something was given for {shape[0]} samples, shape {shape}, in a batch of {size}; give one value for "
                "each sample, or one for all"
            )
        return 0

    def of_class(node: Any) -> Any:
        axes = object.__new__(type(node))
        for field in dataclasses.fields(node):
            value = getattr(node, field.name)
            if field.metadata.get("per_sample"):
                value = jax.tree.map(axis, value)
            elif not field.metadata.get("static"):
                value = batch_axes(value, size)
            object.__setattr__(axes, field.name, value)
        return axes

    ours = lambda node: dataclasses.is_dataclass(node) and type(node) in _CLASSES
    return jax.tree.map(lambda node: of_class(node) if ours(node) else None, tree, is_leaf=ours)


def as_pytree(function: Any) -> Any:
    """A plain function as a `jax.tree_util.Partial`, which `jax.jit` takes as an argument; a pytree as it is."""
    return jax.tree_util.Partial(function) if jax.tree_util.all_leaves([function]) else function


def is_traced(tree: Any) -> bool:
    """Whether any leaf of `tree` is known only when the compiled program runs, so that its value cannot be checked."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))


def expand(t: Time | Shaped[Array, "..."], x: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
    """Append axes to `t` until it broadcasts against `x`, whose shape it must be a prefix of.

    Args:
        t: shape () or a prefix of `x.shape` (an axis of length 1 counts as equal).
        x: array of any shape.

    Raises:
        ValueError: `t` is not a prefix of `x.shape`.
    """
    t = jnp.asarray(t)
    if t.ndim > x.ndim or any(a not in (1, b) for a, b in zip(t.shape, x.shape, strict=False)):
        raise ValueError(
            f"a time must have shape () or a prefix of the data's shape {x.shape}, got {t.shape}; "
            "add axes of length 1 where it is shared"
        )
    return t.reshape(t.shape + (1,) * (x.ndim - t.ndim)) if t.ndim else t


@runtime_checkable
class Schedule(Protocol):
    """`t -> (alpha, sigma)` of x_t = alpha x0 + sigma eps: alpha/sigma strictly decreases, exactly (1, 0) at t = 0.

    A schedule that derives much from its numbers may have `prepared()`, the same schedule with that derived: `sample`
    calls it once, before its loop.
    """

    def __call__(self, t: Time) -> tuple[Float[Array, "..."], Float[Array, "..."]]: ...

    def inverse(self, logsnr: Time) -> Float[Array, "..."]:
        """The time at which 2 log(alpha / sigma) equals `logsnr`."""
        ...


@runtime_checkable
class Prediction(Protocol):
    """The linear target `a x0 + b eps` of a network; `sigma_data` is the data's standard deviation it assumes."""

    @property
    def sigma_data(self) -> Scalar: ...

    def __call__(self, schedule: Schedule, t: Time) -> tuple[Float[Array, "..."], Float[Array, "..."]]: ...


@runtime_checkable
class Weighting(Protocol):
    """`(schedule, t) -> weight` of an example's loss, relative to the squared error of v."""

    def __call__(self, schedule: Schedule, t: Time) -> Float[Array, "..."]: ...


@runtime_checkable
class Times(Protocol):
    """`(key, index, size) -> t` in (0, 1): the training times of the examples at `index` of a batch of `size`."""

    def __call__(self, key: Key[Array, ""], index: Int[Array, " B"], size: int) -> Float[Array, " B"]: ...


@runtime_checkable
class Denoiser(Protocol):
    """`(x_t, t, cond) -> E[x0 | x_t]` for continuous data, log-probabilities of x0 for tokens."""

    def __call__(self, x: Any, t: Time, cond: Condition = None) -> Any: ...


@runtime_checkable
class Process(Protocol):
    """How one kind of data becomes noise, and what one reverse step draws."""

    @property
    def schedule(self) -> Schedule: ...

    def prior(self, keys: Noise, spec: Spec) -> Data: ...

    def corrupt(self, keys: Noise, x0: Data, t: Time) -> tuple[Data, Data]: ...

    def forward(self, keys: Noise, x_s: Data, s: Time, t: Time) -> Data: ...

    def inputs(self, x_t: Data, t: Time) -> Data: ...

    def loss(self, output: Data, x_t: Data, target: Data, t: Time, where: Any = None) -> Float[Array, " B"]: ...

    def denoiser(self, network: Callable[..., Data], observed: Any = None) -> Denoiser: ...

    def bridge(self, keys: Noise, denoised: Data, x_t: Data, t: Time, s: Time) -> Data: ...


@runtime_checkable
class Solver(Protocol):
    """One reverse step from t to s < t. Frozen pytrees; a user's own solver needs these members and no base class."""

    @property
    def order(self) -> int:
        """Order of convergence; of a stochastic solver the weak one."""
        ...

    def nfe(self, grid: Float[Array, " N"]) -> Int[Array, ""]:
        """How often the steps of `grid` call `denoise`."""
        ...

    def init(self, process: Any, x: Data, grid: Float[Array, " N"]) -> Any:
        """The state carried from step to step: history, memory, or ()."""
        ...

    def step(
        self,
        keys: Noise,
        process: Any,
        denoise: Denoiser,
        x: Data,
        t: Float[Array, ""],
        s: Float[Array, ""],
        state: Any,
    ) -> tuple[Data, Any]: ...


Mask: TypeAlias = Bool[Array, "..."]
"""True where an element is observed; its shape is a prefix of the data's shape, axes of length 1 allowed."""
