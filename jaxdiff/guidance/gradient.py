"""Classifier guidance: the gradient of a classifier of noisy data moves the denoised value (arXiv 2105.05233).

By Bayes' rule the score of x_t given y is grad log q(x_t) + grad log p(y | x_t). The denoised value is
(x_t + sigma^2 score) / alpha, so

    E[x0 | x_t, y] = E[x0 | x_t] + sigma^2 / alpha grad log p(y | x_t).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.types import Condition, Denoiser, Process, Scalar, Time, as_pytree, expand, per_sample, pytree


@pytree
class ClassifierGuided:
    """The denoiser that `classifier` makes."""

    denoise: Denoiser
    log_prob: Callable[..., Float[Array, " B"]]
    process: Process
    scale: Scalar | Float[Array, " B"] = per_sample()

    def __call__(self, x: Float[Array, "B ..."], t: Time, cond: Condition = None) -> Float[Array, "B ..."]:
        log_prob, pullback = jax.vjp(lambda x: self.log_prob(x, t), x)
        if log_prob.shape != x.shape[:1]:
            raise ValueError(
                f"log_prob must give one number for each of the {x.shape[0]} samples, shape ({x.shape[0]},), got "
                f"{log_prob.shape}; take the log-probability of each sample's own class"
            )
        (gradient,) = pullback(jnp.ones_like(log_prob))  # samples are independent, so this is each one's own
        alpha, sigma = (expand(a, x) for a in self.process.schedule(t))
        usable = (alpha > 0) & (sigma > 0)
        factor = expand(self.scale, x) * sigma**2 / jnp.where(usable, alpha, 1.0)
        return self.denoise(x, t, cond) + jnp.where(usable, factor * gradient, 0.0)


def classifier(
    denoise: Denoiser,
    log_prob: Callable[..., Float[Array, " B"]],
    process: Process,
    scale: Scalar | Float[Array, " B"] = 1.0,
) -> ClassifierGuided:
    """D + scale sigma^2 / alpha grad_x log p(y | x_t) (arXiv 2105.05233, alg. 2, written for x0).

    With scale 1 and the exact classifier this is the exact conditional denoiser. The paper's alg. 1 moves the ancestral
    mean by the bridge's variance times the gradient, which is the same to first order in the step.

    Where alpha = 0 there is no correction: the data are all noise, the gradient is zero and its factor infinite. So the
    first step of a grid that starts there is not guided. At t = 0 there is none either: x_t is the data.

    Args:
        denoise: `(x, t, cond) -> x0`, with or without a condition of its own.
        log_prob: `(x, t) -> log p(y | x_t = x)` in nats, shape (B,), for the y wanted of each sample; differentiable
            in x. A `jax.tree_util.Partial` over parameters and labels makes them arguments of the compiled program.
        process: a Gaussian process; its schedule gives alpha and sigma.
        scale: a number, or one for each sample, shape (B,); may be traced.

    Returns:
        A denoiser; each call evaluates the denoiser once, and the classifier and its gradient once.

    Raises:
        ValueError: when called, if log_prob does not give shape (B,).
    """
    return ClassifierGuided(denoise=as_pytree(denoise), log_prob=as_pytree(log_prob), process=process, scale=scale)
