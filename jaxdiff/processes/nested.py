"""Data of several kinds with one law: a pytree of processes over a pytree of data, on one clock.

Each part becomes noise by its own process, independently of the others given the data, q(x_t | x0) = prod_i q_i(x_t^i |
x0^i). What ties them together is the network, which sees every part and estimates each given all. Of the reverse
process the generators of the parts add up (arXiv 2410.20587), and the terms of the ELBO do as well:

    rate = sum_i rate_i,    prior_kl = sum_i prior_kl_i,    reconstruction = sum_i reconstruction_i.

A mixed table is `Nested(parts={"numbers": Gaussian(...), "category": Discrete.masked(5)})` over data of the same keys.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff import noise
from jaxdiff.processes.observed import put_in
from jaxdiff.types import Condition, Data, Noise, Spec, Time, is_traced, per_sample, pytree


def _is_process(node: Any) -> bool:
    return hasattr(node, "corrupt")


@pytree
class Nested:
    """A pytree of processes; data, their shapes, the network's inputs and outputs are pytrees of its structure.

    Times may differ between parts: where a method takes `t`, it is one array for all or a pytree of one for each. The
    noise of part i, in the order of `jax.tree.leaves`, is folded from a sample's key by i.

    Args:
        parts: processes in dicts, lists, tuples, or other pytrees.
        weights: what each part counts in the loss, numbers >= 0 in a pytree of the same structure; 1 by default.
        schedule: places grids of times and the times of the ELBO, whose mean does not depend on it; that of the first
            part by default. Each part has its own for everything else, at the same t.

    Raises:
        ValueError: no parts, a part that is no process or a `Nested` itself, or weights of another structure.
    """

    parts: Any
    weights: Any = None
    schedule: Any = None

    def __post_init__(self):
        leaves = self._parts
        if not leaves:
            raise ValueError(f"parts must hold at least one process, got {self.parts}")
        for part in leaves:
            if not _is_process(part) or isinstance(part, (type, Nested)):
                raise ValueError(
                    f"each part must be a process, such as Gaussian(...) or Discrete(...), got {part!r}; instead of a "
                    "Nested inside another, put its parts there"
                )
        if self.weights is not None:
            for weight in self.leaves(self.weights, "weights"):
                if jnp.ndim(weight) or not (is_traced(weight) or weight >= 0):
                    raise ValueError(f"weights must be one number >= 0 for each part, got {weight}")
        if self.schedule is None:
            object.__setattr__(self, "schedule", leaves[0].schedule)

    def leaves(self, tree: Any, what: str = "data") -> list[Any]:
        """What `tree` holds for each part, in the order of the parts.

        Raises:
            ValueError: `tree` has another structure than the parts.
        """
        structure = self.structure
        try:
            return structure.flatten_up_to(tree)
        except (ValueError, TypeError) as error:
            got = jax.tree.structure(tree)
            raise ValueError(f"{what} must have the structure of the parts, {structure}, got {got}: {error}") from error

    def join(self, leaves: Sequence[Any]) -> Any:
        """The inverse of `leaves`."""
        return jax.tree.unflatten(self.structure, leaves)

    def sources(self, keys: Noise) -> list[Noise]:
        """A noise source for each part.

        Raises:
            ValueError: supplied normals: one array does not fit parts of several shapes.
        """
        if not noise.is_keys(keys):
            raise ValueError(
                "Nested draws each part's noise from keys, got supplied normals of shape "
                f"{keys.shape}, which fit one array of data; pass a key and no noise"
            )
        return [noise.fold(keys, i) for i in range(len(self._parts))]

    def prior(self, keys: Noise, spec: Spec) -> Data:
        """Draws of each part's noise at t = 1, with the shapes and dtypes of `spec`."""
        return self._map(lambda part, keys, spec: part.prior(keys, spec), self.sources(keys), self.leaves(spec, "spec"))

    def corrupt(self, keys: Noise, x0: Data, t: Any) -> tuple[Data, Data]:
        """x_t ~ q(x_t | x0) and the targets, each a pytree of the data's structure."""
        rows = zip(self._parts, self.sources(keys), self.leaves(x0), self._clocks(t), strict=True)
        pairs = [part.corrupt(keys, x0, t) for part, keys, x0, t in rows]
        return self.join([x_t for x_t, _ in pairs]), self.join([target for _, target in pairs])

    def forward(self, keys: Noise, x_s: Data, s: Any, t: Any) -> Data:
        """x_t ~ q(x_t | x_s) of each part for t >= s."""
        step = lambda part, keys, x_s, s, t: part.forward(keys, x_s, s, t)
        return self._map(step, self.sources(keys), self.leaves(x_s), self._clocks(s), self._clocks(t))

    def inputs(self, x_t: Data, t: Any) -> Data:
        """What the network sees of each part."""
        return self._map(lambda part, x_t, t: part.inputs(x_t, t), self.leaves(x_t), self._clocks(t))

    def loss(self, output: Data, x_t: Data, target: Data, t: Any, where: Any = None) -> Float[Array, " B"]:
        """sum_i weight_i loss_i, shape (B,), each part's loss being the mean over its own elements.

        So a picture counts as much as a label, whatever their sizes, unless the weights say otherwise.

        Args:
            output, x_t, target: pytrees of the data's structure.
            t: times, an array or a pytree of one for each part.
            where: elements that count, a mask or None (all) for each part; None for all of all.
        """
        of_part = lambda part, output, x_t, target, t, where: part.loss(output, x_t, target, t, where)
        losses = self._each(
            of_part,
            self.leaves(output, "the network's output"),
            self.leaves(x_t),
            self.leaves(target, "target"),
            self._clocks(t),
            self._optional(where, "where"),
        )
        weights = [1.0] * len(losses) if self.weights is None else self.leaves(self.weights, "weights")
        return sum(weight * loss for weight, loss in zip(weights, losses, strict=True))  # pyright: ignore[reportReturnType]

    def denoiser(self, network: Callable[..., Any], observed: Any = None) -> "NestedDenoiser":
        """`(x_t, t, cond) -> pytree` of E[x0 | x_t] or log p(x0 | x_t), each part given all, by one call of `network`.

        Args:
            network: `network(x, t, cond) -> outputs` over pytrees; usually `jax.tree_util.Partial(apply, params)`.
            observed: `(mask, value)` or None for each part; None where nothing is known. With it the network's clock is
                a pytree too, of the time of each part's elements, 0 where they are known; without it, t itself.

        Raises:
            ValueError: `observed` of another structure, or one that a part refuses.
        """
        if not isinstance(network, jax.tree_util.Partial):
            network = jax.tree_util.Partial(network)
        for part, known in zip(self._parts, self._optional(observed, "observed"), strict=True):
            part.denoiser(network, known)  # its own checks
        return NestedDenoiser(process=self, network=network, observed=observed)

    def bridge(self, keys: Noise, denoised: Data, x_t: Data, t: Time, s: Time) -> Data:
        """x_s of each part, drawn by its own bridge: independent given x_t, which is exact as steps shrink."""
        step = lambda part, keys, denoised, x_t: part.bridge(keys, denoised, x_t, t, s)
        return self._map(step, self.sources(keys), self.leaves(denoised, "denoised"), self.leaves(x_t))

    def rate(self, x0: Data, denoised: Data, t: Time, x_t: Data) -> Float[Array, " B"]:
        """The ELBO's integrand over t, the parts' sum, in nats, shape (B,)."""
        rate = lambda part, x0, denoised, x_t: part.rate(x0, denoised, t, x_t)
        return self._sum(rate, self.leaves(x0), self.leaves(denoised, "denoised"), self.leaves(x_t))

    def control(self, x0: Data, x_t: Data, t: Time) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
        """The sums of the parts' control variates and of their means; a part without one adds nothing."""
        known = mean = jnp.zeros(jax.tree.leaves(x0)[0].shape[0])
        for part, x0_i, x_i in zip(self._parts, self.leaves(x0), self.leaves(x_t), strict=True):
            if hasattr(part, "control"):
                more, its_mean = part.control(x0_i, x_i, t)
                known, mean = known + more, mean + its_mean
        return known, mean

    def reconstruction(self, x0: Data, t: Time) -> Float[Array, " B"]:
        """-E log p(x0 | x_t), the parts' sum, in nats, shape (B,)."""
        return self._sum(lambda part, x0: part.reconstruction(x0, t), self.leaves(x0))

    def prior_kl(self, x0: Data) -> Float[Array, " B"]:
        """KL(q(x_1 | x0) || prior), the parts' sum, in nats, shape (B,)."""
        return self._sum(lambda part, x0: part.prior_kl(x0), self.leaves(x0))

    @property
    def structure(self) -> Any:
        """Of the parts, as `jax.tree.structure` gives it, with a process for a leaf."""
        return jax.tree.structure(self.parts, is_leaf=_is_process)

    @property
    def _parts(self) -> list[Any]:
        return jax.tree.leaves(self.parts, is_leaf=_is_process)

    def _clocks(self, t: Any) -> list[Any]:
        """A time for each part."""
        return [t] * len(self._parts) if jax.tree_util.all_leaves([t]) else self.leaves(t, "times")

    def _optional(self, tree: Any, what: str) -> list[Any]:
        return [None] * len(self._parts) if tree is None else self.leaves(tree, what)

    def _each(self, function: Callable[..., Any], *leaves: Sequence[Any]) -> list[Any]:
        return [function(*row) for row in zip(self._parts, *leaves, strict=True)]

    def _map(self, function: Callable[..., Any], *leaves: Sequence[Any]) -> Any:
        return self.join(self._each(function, *leaves))

    def _sum(self, function: Callable[..., Any], *leaves: Sequence[Any]) -> Any:
        return sum(self._each(function, *leaves))


@pytree
class NestedDenoiser:
    """Estimates of every part from one call of a joint network; a pytree, as the denoisers of one part are."""

    process: Nested
    network: Callable[..., Any]
    observed: Any = per_sample(default=None)

    def __call__(self, x: Data, t: Time, cond: Condition = None) -> Data:
        of, clock = self.process, t
        if self.observed is not None:
            known = of.leaves(self.observed, "observed")
            rows = [put_in(known, x, t) for known, x in zip(known, of.leaves(x), strict=True)]
            x, clock = of.join([x for x, _ in rows]), of.join([clock for _, clock in rows])
        outputs = of.leaves(self.network(of.inputs(x, clock), clock, cond), "the network's output")
        # A part's own denoiser, with the joint network's output for it, turns that into an estimate.
        estimate = lambda part, output, x, t: part.denoiser(lambda x, t, cond: output)(x, t)
        return of._map(estimate, outputs, of.leaves(x), of._clocks(clock))
