"""The discrete process against exact laws: bounds that are tight, samplers that converge, and one that does not."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from token_laws import CASES, PROCESSES, TABLE, K, L, sequences, setting

from jaxdiff import likelihood, noise, oracles, sample, solvers


def plug_in(process, log_probs, z, t, s):
    """The bridge of the mean prediction: right for masks, wrong for everything else."""
    pi = jnp.asarray(process.pi)
    (a, _), (c, d) = process.schedule(t), process.schedule(s)
    p = jnp.pad(jnp.exp(log_probs), ((0, 0), (0, 0), (0, len(pi) - K)))
    same, pi_z, r = z[..., None] == jnp.arange(len(pi)), pi[z][..., None], a / c
    law = (r * same + (1 - r) * pi_z) * (c * p + d * pi)
    return jnp.log(law / law.sum(-1, keepdims=True))


def total_variation(name, steps, bridge=None):
    """Between the data and what `steps` reverse steps of exact posteriors sample, by matrices over all sequences."""
    process, law = setting(name)
    bridge = process.bridge_logits if bridge is None else functools.partial(bridge, process)
    pi, grid = np.asarray(process.pi), np.linspace(1, 0, steps + 1)
    z = sequences(len(pi))
    reach = np.prod(pi[np.asarray(z)], 1)

    @jax.jit
    def matrix(t, s):
        log_probs = process.log_probabilities(law.denoise(z, process, t), z, t)
        tokens = jnp.exp(bridge(log_probs, z, t, s))
        return jnp.einsum("zi,zj->zij", tokens[:, 0], tokens[:, 1]).reshape(len(z), -1)

    for t, s in itertools.pairwise(grid):
        step = np.asarray(matrix(t, s))
        live = reach > 0  # others cannot be reached, and have no posterior
        np.testing.assert_allclose(step[live].sum(1), 1, rtol=1e-10)
        reach = reach[live] @ step[live]
    reach = reach.reshape([len(pi)] * L)
    assert abs(reach[:K, :K].sum() - 1) < 1e-10
    return 0.5 * np.abs(reach[:K, :K] - TABLE).sum()


@CASES
def test_the_bound_is_tight_for_each_sequence(name):
    """Exact posteriors: the integral of the mean rate is -log p(x0), for each x0 and so for the mean over data."""
    process, law = setting(name)
    with jax.enable_x64(True):
        z, x0 = sequences(len(process.pi)), sequences(K)
        nodes, weights = np.polynomial.legendre.leggauss(120)
        u, weights = 0.5 * (nodes + 1), 0.5 * weights
        times, weights = u**6, weights * 6 * u**5  # the integrand has t log t at the data

        @jax.jit
        def mean_rate(t):
            log_probs = law.denoise(z, process, t)
            rates = jax.vmap(lambda x: process.rate(jnp.broadcast_to(x, z.shape), log_probs, t, z))(x0)
            q = process.evidence(z, t)
            q = q[:, 0][:, x0[:, 0]].T * q[:, 1][:, x0[:, 1]].T
            return jnp.where(q > 0, q * rates, 0.0).sum(1)

        bound = weights @ np.asarray(jax.lax.map(mean_rate, jnp.asarray(times)))
        bound += np.asarray(process.reconstruction(x0, 0.0) + process.prior_kl(x0))
        exact = -np.asarray(law.log_prob(x0))
    np.testing.assert_allclose(bound, exact, atol=1e-8)
    assert abs(TABLE.reshape(-1) @ (bound - exact)) < 1e-8


@CASES
def test_ancestral_steps_converge_to_the_data(name):
    with jax.enable_x64(True):
        errors = [total_variation(name, steps) for steps in (16, 32, 64)]
    slopes = np.log2(np.divide(errors[:-1], errors[1:]))
    assert errors[-1] < 0.011
    assert (abs(slopes - 1) < 0.05).all(), (errors, slopes)


def test_the_bridge_of_the_mean_does_not_converge():
    """The same posteriors in another formula: an error that no number of steps removes, but for a mask."""
    with jax.enable_x64(True):
        error = lambda name, steps: total_variation(name, steps, plug_in)
        uniform = [error("uniform", steps) for steps in (32, 64, 128)]
        mask = [error("mask", steps) for steps in (16, 64)]
        right = total_variation("uniform", 128)
        assert min(uniform) > 0.2 and right < 0.005
        np.testing.assert_allclose(uniform[2], uniform[1], rtol=1e-3)
        np.testing.assert_allclose(mask, [total_variation("mask", n) for n in (16, 64)], rtol=1e-9)


@CASES
def test_sample_draws_from_the_law_of_its_steps(name):
    """200,000 sequences of the whole sampler; its law at 32 steps is known, and so is its distance from the data."""
    process, law = setting(name)
    size, steps = 200_000, 32
    spec, grid = jax.ShapeDtypeStruct((size, L), jnp.int32), jnp.linspace(1, 0, steps + 1)
    x, info = sample(jax.random.key(0), process, law.denoiser(process), solvers.Ancestral(), grid, spec=spec)
    assert x.dtype == jnp.int32 and int(info.nfe) == steps
    counts = np.zeros((K, K))
    np.add.at(counts, tuple(np.asarray(x).T), 1 / size)
    with jax.enable_x64(True):
        expected = total_variation(name, steps)
    assert abs(0.5 * np.abs(counts - TABLE).sum() - expected) < 3 * np.sqrt(K**L / size) / 2


@CASES
def test_the_estimated_bound_is_that_of_the_law(name):
    process, law = setting(name)
    x0 = jnp.repeat(sequences(K), 400, 0)
    elbo = jax.jit(likelihood.elbo, static_argnames="draws")
    bound = elbo(jax.random.key(0), process, law.denoiser(process), x0, t_min=1e-3, draws=64)
    bound, exact = np.asarray(bound).reshape(-1, 400), np.asarray(law.log_prob(sequences(K)))
    error = bound.std(1) / 20
    assert error.max() < 0.15
    assert (abs(bound.mean(1) - exact) < 4.5 * error + 6e-3).all()


def test_a_wrong_posterior_loosens_the_bound():
    """The rate of independent tokens exceeds that of the exact posterior on average, for each kind of noise."""
    flat = oracles.EnumeratedTokens(probabilities=np.full((K, K), 1 / K**L))
    x0 = setting("mask")[1].sample(jax.random.key(1), 4000)
    for name in PROCESSES:
        process, law = setting(name)
        z, _ = process.corrupt(noise.sample_keys(jax.random.key(0), 4000), x0, 0.5)
        rates = [process.rate(x0, law.denoise(z, process, 0.5), 0.5, z) for law in (law, flat)]
        excess = rates[1] - rates[0]
        assert excess.mean() > 4 * excess.std() / np.sqrt(4000)
