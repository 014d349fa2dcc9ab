"""Averages of the parameters over training, and averages that were not kept, from some that were.

An average is a function of the optimiser updates n done before this one. It says how much of the old average stays:

    e <- decay e + (1 - decay) p,    decay = average(n),    p the parameters after the update.

`exponential` forgets at a fixed rate. `power` keeps the same *relative* length however long training lasts (arXiv
2312.02696, eq. 2 and 3): after t updates it is the mean of the parameters under the profile

    f_(t, gamma)(tau) = (gamma + 1) tau^gamma / t^(gamma + 1),  tau in [0, t],    by decay = (1 - 1 / t)^(gamma + 1).

The update is exact: each parameter's weight is the integral of f over its own step. The profile's width is its standard
deviation relative to t (app. C, eq. 123), width^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)).

A profile that was not kept is close to a combination of profiles that were. Their inner products are

    <f_(s, a), f_(t, b)> = (a + 1) (b + 1) / (a + b + 1) (s / t)^b / t,    s <= t,

so the best coefficients solve a linear system (app. C, alg. 3), and the snapshots with these coefficients are the
average of another width or of an earlier step. Two widths, such as 0.05 and 0.10, with a dozen snapshots each suffice.
Here the coefficients add up to 1, which the paper does not ask for: parameters that stand still then come back exactly,
and the error of a typical run is several times smaller.
"""

import math
from collections.abc import Callable, Iterable, Sequence, Sized
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxdiff.types import Params, Scalar, is_traced, pytree

Step = int | float | Int[Array, ""] | Float[Array, ""]


@pytree
class exponential:
    """Exponential decay, min(decay, (1 + n) / (10 + n)): shorter at first, to forget the start.

    Args:
        decay: in [0, 1).

    Raises:
        ValueError: `decay` outside [0, 1).
    """

    decay: Scalar = 0.999

    def __post_init__(self):
        if not is_traced(self.decay) and not 0 <= float(self.decay) < 1:
            raise ValueError(f"decay must be in [0, 1), got {self.decay}; 0.999 averages over about 1000 updates")

    def __call__(self, step: Step) -> Float[Array, ""]:
        n = _number(step)
        return jnp.minimum(self.decay, (1 + n) / (10 + n))

    def fresh(self, step: Step) -> Float[Array, ""]:
        """1 - decay, without cancellation."""
        return jnp.maximum(1 - self.decay, 9 / (10 + _number(step)))


@pytree
class power:
    """Power-function average (arXiv 2312.02696, sec. 3.1), of a fixed length relative to the run.

    Args:
        gamma: exponent of the profile, >= 0; 16.97 has width 0.05, 6.94 has 0.10, and 0 is the plain mean.

    Raises:
        ValueError: `gamma` < 0.
    """

    gamma: Scalar

    def __post_init__(self):
        if not is_traced(self.gamma) and not float(self.gamma) >= 0:
            raise ValueError(f"gamma must be at least 0, got {self.gamma}; power.of_width(0.1) is gamma = 6.94")

    @classmethod
    def of_width(cls, width: float) -> "power":
        """The average whose profile has the standard deviation `width` relative to the run, sigma_rel of the paper.

        Raises:
            ValueError: `width` outside (0, 0.2887): that of gamma = 0, the plain mean, is the largest.
        """
        largest = 12**-0.5
        if not 0 < width < largest:
            raise ValueError(f"width must be in (0, {largest:.4f}), got {width}; the plain mean is power(gamma=0)")
        roots = np.roots([1, 7, 16 - width**-2, 12 - width**-2])
        return cls(gamma=float(roots.real.max()))

    @property
    def width(self) -> Scalar:
        """Standard deviation of the profile relative to the run."""
        return ((self.gamma + 1) / (self.gamma + 3)) ** 0.5 / (self.gamma + 2)

    def __call__(self, step: Step) -> Float[Array, ""]:
        return jnp.exp(self._log(step))

    def fresh(self, step: Step) -> Float[Array, ""]:
        """1 - decay, without cancellation: after 10^7 updates float32 has no digit of it left in the decay."""
        return -jnp.expm1(self._log(step))

    def _log(self, step: Step) -> Float[Array, ""]:
        return (self.gamma + 1) * jnp.log1p(-1 / (_number(step) + 1))


def update(average: Callable[[Any], Any], ema: Params, params: Params, step: Step) -> Params:
    """The average after one more update, e + (1 - decay) (p - e), in the dtypes of `ema`.

    Args:
        average: `exponential`, `power`, or a function of one's own, `step -> decay`.
        ema: the average so far.
        params: the parameters after the update.
        step: updates done before this one.
    """
    exact = getattr(average, "fresh", None)
    fresh = 1 - jnp.asarray(average(step)) if exact is None else exact(step)

    def follow(e: Array, p: Array) -> Array:
        old, new = e.astype(_wide(e)), p.astype(_wide(e))
        return (old + fresh.astype(old.dtype) * (new - old)).astype(e.dtype)

    return jax.tree.map(follow, ema, params)


def coefficients(stored: Sequence[Any], target: Sequence[Any]) -> np.ndarray:
    """The combination of stored power profiles, of sum 1, that is closest to the target's (arXiv 2312.02696, alg. 3).

    Args:
        stored: `(step, gamma)` of each snapshot; the step is how many updates its average has seen.
        target: `(step, gamma)` of the wanted average.

    Returns:
        One float64 coefficient a snapshot; some are negative.

    Raises:
        ValueError: nothing stored, a step or gamma without a profile, or a snapshot newer than the target.
    """
    return _fit(stored, target)[0]


def misfit(stored: Sequence[Any], target: Sequence[Any]) -> float:
    """|target - combination| / |target| of the profiles, with `coefficients`: 0 is exact, 1 is no likeness.

    About 0.01 where a snapshot stands at the target's step and the target is neither much narrower nor much wider than
    what was stored; about 1 where the last snapshot is older than the target is wide. It takes the same arguments and
    raises the same errors as `coefficients`.
    """
    return _fit(stored, target)[1]


def reconstruct(snapshots: Iterable[Any], stored: Sequence[Any], target: Sequence[Any]) -> Params:
    """The average that was not kept: the snapshots times `coefficients(stored, target)`.

    Args:
        snapshots: trees of parameters in the order of `stored`. A generator that loads them one by one works: no more
            than one of them is held.
        stored, target: see `coefficients`; `misfit` says how close the result can be.

    Returns:
        A tree in the dtypes of the first snapshot, summed in float32 or wider.

    Raises:
        ValueError: as `coefficients`, or another number of snapshots than of `stored`.
    """
    weights = coefficients(stored, target)
    mismatch = f"{len(stored)} pairs of (step, gamma) need as many snapshots, got "
    if isinstance(snapshots, Sized) and len(snapshots) != len(stored):
        raise ValueError(f"{mismatch}{len(snapshots)}; give each snapshot its own pair")
    total, dtypes, count = None, None, 0
    for count, tree in enumerate(snapshots, 1):
        if count > len(stored):
            raise ValueError(f"{mismatch}more; give each snapshot its own pair")
        tree, weight = jax.tree.map(jnp.asarray, tree), float(weights[count - 1])
        term = jax.tree.map(lambda leaf, w=weight: w * leaf.astype(_wide(leaf)), tree)
        dtypes = jax.tree.map(lambda leaf: leaf.dtype, tree) if dtypes is None else dtypes
        total = term if total is None else jax.tree.map(jnp.add, total, term)
    if count < len(stored):
        raise ValueError(f"{mismatch}{count}; give each snapshot its own pair")
    return jax.tree.map(lambda leaf, dtype: leaf.astype(dtype), total, dtypes)


def _number(step: Step) -> Float[Array, ""]:
    return jnp.asarray(step, dtype=float)


def _wide(leaf: Array) -> Any:
    """The dtype to compute in: bfloat16 would lose what one update adds."""
    return jnp.promote_types(leaf.dtype, jnp.float32)


def _fit(stored: Sequence[Any], target: Sequence[Any]) -> tuple[np.ndarray, float]:
    """Coefficients and relative distance, from profiles scaled to unit norm: no power of a step overflows."""
    pairs = np.array([tuple(map(float, pair)) for pair in (*stored, target)], np.float64)
    if len(pairs) == 1:
        raise ValueError("no snapshots are stored; give the (step, gamma) of at least one")
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not (pairs[:, 0] > 0).all() or not (pairs[:, 1] >= 0).all():
        raise ValueError(f"each of stored and target must be a pair (step > 0, gamma >= 0), got {stored} and {target}")
    steps, gammas = pairs.T
    if (steps[:-1] > steps[-1]).any():
        raise ValueError(
            f"the target's step {target[0]} has seen nothing of the snapshots at {steps[:-1].max():g}; "
            "leave out the newer ones"
        )
    norms = (gammas + 1) / np.sqrt((2 * gammas + 1) * steps)
    cosines = _inner(steps[:, None], gammas[:, None], steps, gammas) / (norms[:, None] * norms)
    gram, towards = cosines[:-1, :-1], cosines[:-1, -1]
    share = norms[-1] / norms[:-1]  # what a unit of each scaled profile adds to the sum of the coefficients
    # Least squares: the same snapshot twice is one equation too many.
    x, toward_sum = np.linalg.lstsq(gram, np.stack([towards, share], 1), rcond=None)[0].T
    x = x + toward_sum * (1 - share @ x) / (share @ toward_sum)
    distance = math.sqrt(max(0.0, 1 - 2 * x @ towards + x @ gram @ x))
    return x * share, distance


def _inner(s: Any, a: Any, t: Any, b: Any) -> Any:
    """<f_(s, a), f_(t, b)> in closed form; the ratio of steps is at most 1."""
    exponent = np.where(s <= t, b, a)
    return (a + 1) * (b + 1) / (a + b + 1) * (np.minimum(s, t) / np.maximum(s, t)) ** exponent / np.maximum(s, t)
