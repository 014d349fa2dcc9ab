"""Linear operators: adjoint, system and pseudo-inverse against their matrix, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.conditioning.conjugate_gradients import conjugate_gradients
from jaxdiff.conditioning.operators import (
    AveragePool,
    Blur,
    Chain,
    Channels,
    Fourier,
    Linear,
    Mask,
    Projection,
    pseudo_inverse,
    solve,
)
from jaxdiff.conditioning.operators.protocol import check

SHAPE = (6, 4, 2)
HOLE = jnp.ones((1, 6, 4, 1), bool).at[:, 1:4, 1:3].set(False)
CASES = {
    "mask": Mask(mask=HOLE),
    "pool": AveragePool(factor=2),
    "blur": Blur.gaussian(0.5, radius=1),
    "lopsided blur": Blur(kernel=np.array([[0.1, 0.5, 0.0], [0.0, 0.3, 0.1], [0.0, 0.0, 0.0]])),
    "grey": Channels.grey(2),
    "projection": Projection.random(jax.random.key(0), SHAPE, 7),
    "plain rows": Projection(matrix=np.random.default_rng(0).normal(size=(5, 48)), shape=SHAPE),
    "fourier": Fourier.rows(6, 4, 3),
    "chain": Chain(parts=(Blur.gaussian(0.5, radius=1), AveragePool(factor=2))),
    "linear": Linear(function=lambda x: x[:, ::2] - 2 * x[:, 1::2], shape=SHAPE),
}
CG = {"chain", "linear"}


def matrix_of(operator):
    """(M, D) in double precision: its columns are the images of unit vectors."""
    units = np.eye(48, dtype=np.float32).reshape(48, *SHAPE)
    return np.asarray(operator(jnp.asarray(units)), np.float64).reshape(48, -1).T


@pytest.fixture(params=CASES)
def case(request):
    return request.param, CASES[request.param], matrix_of(CASES[request.param])


def draw(i, shape, count=3):
    return jax.random.normal(jax.random.key(i), (count, *shape))


def test_the_adjoint_is_the_transpose(case):
    _, operator, matrix = case
    x = draw(0, SHAPE)
    y = draw(1, operator(x).shape[1:])
    np.testing.assert_allclose(operator(x).reshape(3, -1), x.reshape(3, -1) @ matrix.T, atol=1e-5)
    np.testing.assert_allclose(operator.adjoint(y).reshape(3, -1), y.reshape(3, -1) @ matrix, atol=1e-5)
    inner = lambda a, b: (a * b).reshape(3, -1).sum(1)
    np.testing.assert_allclose(inner(operator(x), y), inner(x, operator.adjoint(y)), atol=1e-4)


@pytest.mark.parametrize("each", [False, True], ids=["one", "each"])
def test_systems_are_solved(case, each):
    _, operator, matrix = case
    y = operator(draw(2, SHAPE))  # in the range
    a = jnp.array([0.5, 1.0, 2.0]) if each else jnp.float32(0.7)
    b = jnp.array([0.1, 0.4, 0.2]) if each else jnp.float32(0.3)
    found = jax.jit(lambda y, a, b: solve(operator, y, a, b))(y, a, b).reshape(3, -1)
    for i in range(3):
        system = float(np.ravel(a)[i if each else 0]) * matrix @ matrix.T
        system += float(np.ravel(b)[i if each else 0]) * np.eye(len(matrix))
        np.testing.assert_allclose(found[i], np.linalg.solve(system, np.ravel(y[i])), rtol=2e-3, atol=2e-3)


def test_the_pseudo_inverse_is_that_of_the_matrix(case):
    _, operator, matrix = case
    y = operator(draw(3, SHAPE))
    found = pseudo_inverse(operator, y)
    expected = (np.linalg.pinv(matrix, rcond=1e-4) @ np.asarray(y, np.float64).reshape(3, -1).T).T
    np.testing.assert_allclose(found.reshape(3, -1), expected, atol=5e-3)
    np.testing.assert_allclose(operator(found), y, atol=5e-3)


def test_gradients_of_conjugate_gradients_are_those_of_the_solution():
    a = np.random.default_rng(1).normal(size=(5, 5))
    system = jnp.asarray(a @ a.T + np.eye(5), jnp.float32)
    y = draw(4, (5,))
    answer = lambda y, system: conjugate_gradients(lambda v: v @ system, y, iterations=12)
    exact = lambda y, system: jnp.linalg.solve(system, y.T).T
    np.testing.assert_allclose(answer(y, system), exact(y, system), atol=1e-4)
    loss = lambda solver: jax.grad(lambda y: (solver(y, system) ** 3).sum())(y)
    np.testing.assert_allclose(loss(answer), loss(exact), atol=1e-3)
    assert not answer(jnp.zeros((2, 5)), system).any()  # and no NaN
    singular = jnp.diag(jnp.array([1.0, 2.0, 0.0, 0.0, 0.0]))
    found = answer(jnp.array([[3.0, 4.0, 0.0, 0.0, 0.0]]), singular)
    np.testing.assert_allclose(found, [[3.0, 2.0, 0.0, 0.0, 0.0]], atol=1e-5)


def test_a_gaussian_blur_keeps_the_mean_and_spreads():
    x = jnp.zeros((1, 9, 9, 1)).at[0, 4, 4, 0].set(1.0)
    y = Blur.gaussian(1.0)(x)
    assert abs(float(y.sum()) - 1) < 1e-5
    width = (y[0, :, :, 0] * (jnp.arange(9.0) - 4)[:, None] ** 2).sum()
    assert abs(float(width) - 1) < 0.05


def test_refusals_say_what_to_do():
    x = jnp.zeros((2, *SHAPE))
    refused = lambda message: pytest.raises(ValueError, match=message)
    with refused("sees all of its 24 elements; there is nothing to fill in"):
        Mask(mask=jnp.ones((1, 6, 4, 1), bool))
    with refused("sees none of its"):
        Mask(mask=jnp.zeros((1, 6, 4, 1), bool))
    with refused(r"mask\[None\] for one mask"):
        Mask(mask=jnp.ones(6, bool))
    with refused("does not fit data of shape"):
        Mask(mask=HOLE[:, :3])(x)
    with refused("at least 2, got 1"):
        AveragePool(factor=1)
    with refused("must divide the 6 x 4 pixels"):
        AveragePool(factor=4)(x)
    with refused("odd sizes"):
        Blur(kernel=np.ones((2, 3)))
    with refused("larger than the picture of 6 x 4"):
        Blur.gaussian(1.0)(x)
    with refused("std must be positive"):
        Blur.gaussian(0.0)
    with refused("weights are of 3 channels, and the data have 2"):
        Channels.grey(3)(x)
    with refused("2 rows of weights depend on each other"):
        Channels(weights=np.ones((2, 2)))
    with refused("a column for each of the 48 numbers"):
        Projection(matrix=np.ones((1, 3)), shape=SHAPE)
    with refused(r"in \[1, 48\]"):
        Projection.random(jax.random.key(0), SHAPE, 49)
    with refused("hold both or none"):
        Fourier(mask=np.eye(4, dtype=bool)[[0, 1, 1, 1]])
    with refused("odd and in"):
        Fourier.rows(6, 4, 2)
    with refused("at least one operator"):
        Chain(parts=())
    with refused("needs __call__ and adjoint, got function; wrap a linear function"):
        check(lambda x: x)
    with refused("must be linear"):
        Linear(function=lambda x: x + 1, shape=SHAPE)
