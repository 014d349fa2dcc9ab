"""Editing against laws that are known exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import Gaussian, conditioning, grids, sample, schedules, solvers
from jaxdiff.conditioning.editing import below
from jaxdiff.oracles import GaussianMixture

PROCESS = Gaussian(schedule=schedules.Cosine())
RUN = jax.jit(sample, static_argnames=("spec", "trajectory"))


def law():
    return GaussianMixture(
        weights=jnp.array([0.4, 0.6]),
        means=jnp.array([[1.0, 0.8], [-1.0, 0.3]]),
        covariances=jnp.array([[[0.2, 0.1], [0.1, 0.3]], [[0.3, 0.0], [0.0, 0.1]]]),
    )


DENOISE = law().denoiser(PROCESS.schedule)


@pytest.mark.parametrize(("solver", "order"), [(solvers.DDIM(), 1), (solvers.Heun(), 2)], ids=["DDIM", "Heun"])
def test_inversion_and_sampling_undo_each_other_to_the_solvers_order(solver, order):
    with jax.enable_x64(True):
        mixture = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), law())
        denoise, x0 = mixture.denoiser(PROCESS.schedule), mixture.sample(jax.random.key(1), 64)
        errors = []
        for steps in (50, 100, 200):
            grid = below(jnp.linspace(1.0, 0.0, 2 * steps + 1), 0.5)
            there, _ = RUN(jax.random.key(0), PROCESS, denoise, solver, grid[::-1], x=x0)
            back, info = RUN(jax.random.key(0), PROCESS, denoise, solver, grid, x=there)
            errors.append(float(jnp.abs(back - x0).mean()))
        assert int(info.nfe) <= order * steps and float(jnp.abs(there - x0).mean()) > 0.1
        found = np.log2(np.array(errors[:-1]) / errors[1:])
        assert (found > order - 0.25).all(), (errors, found)


def test_an_edit_of_no_strength_keeps_all_and_one_of_full_strength_nothing():
    x0, grid = law().sample(jax.random.key(1), 8), grids.karras(PROCESS.schedule, 12)
    solver = solvers.DPMpp2M()
    kept, info = RUN(jax.random.key(0), PROCESS, DENOISE, solver, below(grid, 0.0), x0=x0)
    np.testing.assert_array_equal(kept, x0)
    assert int(info.nfe) == 0
    fresh, _ = RUN(jax.random.key(0), PROCESS, DENOISE, solver, grid, spec=jax.ShapeDtypeStruct((8, 2), jnp.float32))
    edited, _ = RUN(jax.random.key(0), PROCESS, DENOISE, solver, below(grid, 1.0), x0=x0)
    np.testing.assert_array_equal(edited, fresh)
    for wrong in (-0.1, 1.5):
        with pytest.raises(ValueError, match=r"in \[0, 1\], 0 = the picture and 1 = noise, got"):
            below(grid, wrong)


def moments(x):
    right = (x[:, 0] > 0).mean()  # the share of the first component
    return np.concatenate([x.mean(0), jnp.cov(x.T).ravel(), right[None]])


@pytest.mark.parametrize("t", [0.35, 0.6])
def test_sdedit_draws_from_the_posterior_of_the_noisy_picture(t):
    """The SDE's law is that of x0 given x_t, averaged over x_t; the ODE keeps more of the picture."""
    size, picture = 20_000, jnp.array([1.2, 0.5])
    x0 = jnp.broadcast_to(picture, (size, 2))
    alpha, sigma = PROCESS.schedule(t)
    x_t, _ = PROCESS.corrupt(jax.random.split(jax.random.key(5), size), x0, t)
    exact = jax.vmap(
        lambda key, y: law().posterior(alpha * jnp.eye(2), y, sigma).sample(key, 1)[0]
    )(jax.random.split(jax.random.key(6), size), x_t)  # fmt: skip
    grid = below(grids.uniform(PROCESS.schedule, 300), t)
    by = lambda solver: RUN(jax.random.key(7), PROCESS, DENOISE, solver, grid, x0=x0)[0]
    np.testing.assert_allclose(moments(by(solvers.Ancestral())), moments(exact), atol=0.03)
    distance = lambda x: float(jnp.abs(x - picture).mean())
    assert distance(by(solvers.DDIM())) < distance(exact) - 0.03


def test_with_a_mask_the_rest_comes_back_bit_for_bit():
    x0, grid = law().sample(jax.random.key(1), 500), grids.uniform(PROCESS.schedule, 40)
    mask = jnp.broadcast_to(jnp.array([True, False]), (500, 2))
    run = lambda t: RUN(
        jax.random.key(0),
        PROCESS,
        DENOISE,
        conditioning.RePaint(inner=solvers.Ancestral(), mask=mask, value=x0, times=2),
        below(grid, t),
        x0=x0,
    )[0]
    weak, strong = run(0.15), run(0.7)
    for x in (weak, strong):
        np.testing.assert_array_equal(x[:, 0], x0[:, 0])
    change = lambda x: float(jnp.abs(x - x0)[:, 1].mean())
    assert 0 < change(weak) < change(strong)
