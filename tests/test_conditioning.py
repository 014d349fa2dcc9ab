"""Conditioning without training, against exact posteriors of normal data and of a mixture."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import Gaussian, conditioning, grids, predictions, sample, schedules, solvers
from jaxdiff.conditioning import operators
from jaxdiff.oracles import GaussianMixture

D, M, SIZE, STD = 4, 2, 8000, 0.3
COVARIANCE = np.array([[1.0, 0.6, 0.2, 0.0], [0.6, 1.0, 0.3, 0.1], [0.2, 0.3, 0.5, 0.2], [0.0, 0.1, 0.2, 0.8]])
NORMAL = GaussianMixture(weights=jnp.ones(1), means=jnp.array([[0.5, -0.3, 0.2, 0.0]]), covariances=COVARIANCE[None])
MIXTURE = GaussianMixture(
    weights=jnp.array([0.5, 0.3, 0.2]),
    means=jnp.array([[1.5, 1.0, 0.0, 1.0], [-1.0, 1.0, 1.0, -1.0], [0.0, -1.5, -1.0, 0.5]]),
    covariances=0.25 * jnp.stack([COVARIANCE, COVARIANCE[::-1, ::-1], np.eye(D)]),
)
A = operators.Projection.random(jax.random.key(1), (D,), M)
Y = jnp.array([0.8, -0.4])
SEEN = np.array([True, False, True, False])
PROCESS = {"cosine": Gaussian(schedule=schedules.Cosine()), "flow": Gaussian(schedule=schedules.RectifiedFlow())}
each = pytest.mark.parametrize("process", PROCESS.values(), ids=PROCESS)


def wide(y, size=SIZE):
    return jnp.broadcast_to(y, (size, *y.shape))


@functools.partial(jax.jit, static_argnames=("size", "steps"))
def draw(process, denoise, solver, key=None, *, size=SIZE, steps=60):
    key = jax.random.key(0) if key is None else key
    spec = jax.ShapeDtypeStruct((size, D), jnp.float32)
    return sample(key, process, denoise, solver, grids.logsnr(process.schedule, steps), spec=spec)


def errors(x, law):
    """Distance of means and of covariances, relative to the square root and the size of the law's covariance."""
    spread = jnp.linalg.norm(law.covariance)
    mean = jnp.linalg.norm(x.mean(0) - law.mean) / jnp.sqrt(spread)
    return float(mean), float(jnp.linalg.norm(jnp.cov(x.T) - law.covariance) / spread)


@each
@pytest.mark.parametrize("method", ["MMPS", "PiGDM"])
@pytest.mark.parametrize("noise_std", [STD, 0.0], ids=["noisy", "clean"])
def test_normal_data_have_the_exact_conditional_denoiser(method, process, noise_std):
    """MMPS for any normal law, PiGDM for white ones, at all times; without noise too."""
    white = GaussianMixture(weights=jnp.ones(1), means=jnp.zeros((1, D)), covariances=jnp.full(1, 0.49))
    law = NORMAL if method == "MMPS" else white
    plain, x = law.denoiser(process.schedule), jax.random.normal(jax.random.key(2), (5, D))
    exact = law.posterior(A.matrix, Y, noise_std).denoiser(process.schedule)
    if method == "MMPS":
        found = conditioning.MMPS(plain, A, wide(Y, 5), process, noise_std=noise_std, iterations=M)
    else:
        found = conditioning.PiGDM(plain, A, wide(Y, 5), process, noise_std=noise_std, sigma_data=0.7)
    for t in (jnp.float32(0.05), jnp.float32(0.5), jnp.array([0.2, 0.4, 0.6, 0.8, 0.95])):
        np.testing.assert_allclose(jax.jit(lambda x, t: found(x, t))(x, t), exact(x, t), rtol=1e-3, atol=2e-3)
    np.testing.assert_allclose(found(x, jnp.float32(0.0)), x, atol=1e-6)
    assert jnp.isfinite(found(x, jnp.float32(1.0))).all()


def test_pigdm_is_wrong_for_other_normal_data():
    process = PROCESS["cosine"]
    x, exact = jax.random.normal(jax.random.key(2), (5, D)), NORMAL.posterior(A.matrix, Y, STD).denoiser
    found = conditioning.PiGDM(NORMAL.denoiser(process.schedule), A, wide(Y, 5), process, noise_std=STD)
    assert abs(found(x, 0.5) - exact(process.schedule)(x, 0.5)).max() > 0.02


def test_samples_of_mmps_have_the_posterior_of_normal_data_and_are_nearer_to_that_of_a_mixture():
    process = PROCESS["cosine"]
    for law, limit in ((NORMAL, 0.05), (MIXTURE, 0.9)):
        guided = conditioning.MMPS(law.denoiser(process.schedule), A, wide(Y), process, noise_std=STD, iterations=M)
        x, info = draw(process, guided, solvers.DPMpp2M())
        assert max(errors(x, law.posterior(A.matrix, Y, STD))) < limit and int(info.nfe) == 60
    unguided, _ = draw(process, MIXTURE.denoiser(process.schedule), solvers.Ancestral())
    assert max(errors(unguided, MIXTURE.posterior(A.matrix, Y, STD))) > 1.5


@each
def test_ddnm_agrees_with_what_was_measured(process):
    y = wide(Y)
    guided = conditioning.DDNM(MIXTURE.denoiser(process.schedule), A, y)
    for solver in (solvers.Ancestral(), solvers.DDIM(), solvers.DPMpp2M()):
        x, _ = draw(process, guided, solver, steps=20)
        np.testing.assert_allclose(A(x), y, atol=1e-5)
    assert jnp.cov(x.T)[0, 0] > 0.01  # what is not seen varies


def test_ddnm_plus_is_ddnm_without_noise_and_keeps_the_noise_of_y_out():
    process, plain = PROCESS["cosine"], MIXTURE.denoiser(PROCESS["cosine"].schedule)
    y = wide(Y)
    clean, _ = draw(process, conditioning.DDNM(plain, A, y), solvers.Ancestral(), steps=20)
    tiny, info = draw(process, plain, conditioning.DDNMPlus(operator=A, y=y, noise_std=1e-6), steps=20)
    np.testing.assert_allclose(tiny, clean, atol=2e-2)  # the last step, to the data, leaves y to the model
    assert int(info.nfe) == 20
    # Noise of the size of the data, put in as if it were exact, makes samples as wide as the noise.
    law = GaussianMixture(weights=jnp.ones(1), means=jnp.zeros((1, D)), covariances=jnp.full(1, 0.04))
    noisy = 0.5 * jax.random.normal(jax.random.key(5), (SIZE, M))
    believed, _ = draw(process, conditioning.DDNM(law.denoiser(process.schedule), A, noisy), solvers.Ancestral())
    weighed, _ = draw(
        process, law.denoiser(process.schedule), conditioning.DDNMPlus(operator=A, y=noisy, noise_std=0.5)
    )
    spread = lambda x: float(A(x).std())
    assert spread(believed) > 0.45 and spread(weighed) < 0.42  # of 0.2 by the posterior


def test_repaint_keeps_known_elements_bit_for_bit_and_repetition_brings_it_to_the_posterior():
    process, law = PROCESS["cosine"], NORMAL
    value = jnp.array([1.5, 9.0, -0.5, 9.0])
    exact = law.posterior(np.eye(D)[SEEN], value[SEEN], 0.0)
    found = {}
    for times in (1, 40):
        solver = conditioning.RePaint(
            inner=solvers.DDIM(), mask=wide(jnp.asarray(SEEN), 3000), value=wide(value, 3000), times=times
        )
        x, info = draw(process, law.denoiser(process.schedule), solver, size=3000, steps=80)
        np.testing.assert_array_equal(x[:, SEEN], wide(value, 3000)[:, SEEN])
        assert int(info.nfe) == 80 + 79 * (times - 1)
        found[times] = max(errors(x, exact))
    assert found[40] < 0.12 < 0.25 < found[1]
    once = conditioning.replacement(solvers.DDIM(), wide(jnp.asarray(SEEN), 3000), wide(value, 3000))
    x, _ = draw(process, law.denoiser(process.schedule), once, size=3000, steps=80)
    np.testing.assert_allclose(max(errors(x, exact)), found[1], rtol=1e-5)


def test_dps_moves_towards_y_and_is_no_posterior():
    process, plain = PROCESS["cosine"], NORMAL.denoiser(PROCESS["cosine"].schedule)
    exact = NORMAL.posterior(A.matrix, Y, STD)
    free, _ = draw(process, plain, solvers.Ancestral())
    far = []
    for scale in (0.003, 0.01, 0.03):
        x, info = draw(process, plain, conditioning.DPS(inner=solvers.Ancestral(), operator=A, y=wide(Y), scale=scale))
        far.append(float(jnp.linalg.norm(A(x) - Y, axis=1).mean()))
        assert int(info.nfe) == 60
        assert max(errors(x, exact)) > 0.05  # at no scale
    assert float(jnp.linalg.norm(A(free) - Y, axis=1).mean()) > far[0] > far[1] > far[2]
    nothing, _ = draw(process, plain, conditioning.DPS(inner=solvers.Ancestral(), operator=A, y=wide(Y), scale=0.0))
    np.testing.assert_allclose(nothing, free, atol=1e-5)


def test_one_compilation_serves_measurements_noise_and_scales():
    process, plain = PROCESS["cosine"], NORMAL.denoiser(PROCESS["cosine"].schedule)
    traced = []

    @jax.jit
    def run(y, std, scale):
        traced.append(1)
        guided = conditioning.MMPS(plain, A, y, process, noise_std=std, iterations=1)
        solver = conditioning.DPS(inner=solvers.DDIM(), operator=A, y=y, scale=scale)
        spec = jax.ShapeDtypeStruct((3, D), jnp.float32)
        return sample(jax.random.key(0), process, guided, solver, grids.logsnr(process.schedule, 4), spec=spec)[0]

    for y, std, scale in ((Y, 0.1, 0.5), (-Y, 0.2, 0.1)):
        assert jnp.isfinite(run(wide(y, 3), std, scale)).all()
    assert len(traced) == 1


def test_refusals_say_what_to_do():
    process, plain = PROCESS["cosine"], NORMAL.denoiser(PROCESS["cosine"].schedule)
    refused = lambda message: pytest.raises(ValueError, match=message)
    for make in (
        lambda f: conditioning.DDNM(plain, f, Y),
        lambda f: conditioning.PiGDM(plain, f, Y, process),
        lambda f: conditioning.MMPS(plain, f, Y, process),
        lambda f: conditioning.DPS(inner=solvers.DDIM(), operator=f, y=Y),
        lambda f: conditioning.DDNMPlus(operator=f, y=Y, noise_std=0.1),
    ):
        with refused("needs __call__ and adjoint"):
            make(lambda x: x)
    with refused("must be >= 0, got -1"):
        conditioning.PiGDM(plain, A, Y, process, noise_std=-1)
    with refused("at least 1, got 0"):
        conditioning.MMPS(plain, A, Y, process, iterations=0)
    with refused("got Heun"):
        conditioning.DPS(inner=solvers.Heun(), operator=A, y=Y)
    with refused("without history, got DPMpp2M"):
        draw(process, plain, conditioning.replacement(solvers.DPMpp2M(), wide(jnp.asarray(SEEN)), wide(jnp.ones(D))))


def test_the_prediction_does_not_matter():
    """A network of another prediction gives the same denoiser, and so the same guided one."""
    exact = NORMAL.denoiser(schedules.Cosine())
    process = Gaussian(schedule=schedules.Cosine(), prediction=predictions.v())

    def network(x, t, cond=None):
        alpha, sigma = process.schedule(t)
        return (alpha * x - exact(x, t)) / sigma  # v = alpha eps - sigma x0

    x = jax.random.normal(jax.random.key(3), (5, D))
    guided = lambda denoise: conditioning.MMPS(denoise, A, wide(Y, 5), process, noise_std=STD)(x, 0.4)
    np.testing.assert_allclose(guided(process.denoiser(network)), guided(exact), atol=1e-4)
