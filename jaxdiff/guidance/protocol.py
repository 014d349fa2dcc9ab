"""What a rule is, and what it may tell beyond its value.

A rule is `(x, t, c, u) -> x0`. It may have a method `active(t)`: whether it needs u at time t. Where it does not, its
value is c and u may be anything, so whoever evaluates the estimates may leave u out. A rule that holds a rule passes
the answer on.

What works with more than the guided value asks its denoiser for both estimates and the rule: a `PairDenoiser`.
"""

from collections.abc import Callable
from typing import Protocol, TypeAlias, runtime_checkable

from jaxtyping import Array, Bool, Float, Shaped

from jaxdiff.types import Time

Rule: TypeAlias = Callable[..., Float[Array, "B ..."]]


@runtime_checkable
class PairDenoiser(Protocol):
    """A denoiser of two estimates and the rule that combines them; `classifier_free` makes one."""

    @property
    def rule(self) -> Rule: ...

    def pair(self, x: Shaped[Array, "B ..."], t: Time) -> tuple[Float[Array, "B ..."], Float[Array, "B ..."]]:
        """The conditional and the unconditional estimate."""
        ...


def active(rule: Rule, t: Time) -> bool | Bool[Array, "..."]:
    """Whether `rule` needs the second estimate: True for a rule that does not say, else of the shape of `t`."""
    return rule.active(t) if hasattr(rule, "active") else True  # pyright: ignore[reportFunctionMemberAccess]
