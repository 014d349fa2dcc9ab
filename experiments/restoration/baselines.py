"""What restores pictures without a network: interpolation, linear regression, neighbours, and the Laplace equation.

Pictures are float (N, H, W, C) in [0, 1]; each baseline gives its estimates of the test pictures, cut to [0, 1], with
known pixels as they are.
"""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
import scipy.sparse.linalg

from experiments.restoration.tasks import Task

_RIDGES, _HELD_OUT = (1e-3, 1e-2, 1e-1, 1.0, 10.0), 5_000


def baselines(task: Task, train: np.ndarray, test: np.ndarray) -> dict[str, np.ndarray]:
    """Estimates of `test` by everything that fits the task."""
    measured = lambda pictures: np.asarray(task.operator(jnp.asarray(pictures, jnp.float32)), np.float64)
    known, asked = measured(train), measured(test)
    if task.hole is None:
        size = test.shape[1:3]
        cubic = jax.image.resize(jnp.asarray(asked), (len(asked), *size, test.shape[-1]), "cubic")
        return {"cubic interpolation": np.clip(cubic, 0, 1), "ridge regression": ridge(known, train, asked)}
    hole = task.hole
    seen = lambda pictures: pictures[:, ~hole]
    whole = lambda inside: _filled(asked, hole, inside)
    return {
        "Laplace equation": whole(harmonic(asked, hole)),
        "ridge regression": whole(ridge(seen(train), train[:, hole], seen(test))),
        "mean of 8 neighbours": whole(neighbours(seen(train), train[:, hole], seen(test), 8)),
    }


def ridge(x: np.ndarray, y: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Linear regression of y on x with the penalty that a held-out part of the training examples likes best."""
    flat = lambda a: a.reshape(len(a), -1).astype(np.float64)
    x, out, queries = flat(x), flat(y), flat(queries)
    held = min(_HELD_OUT, len(x) // 5)
    fit, check = slice(held, None), slice(0, held)
    mean_x, mean_y = x[fit].mean(0), out[fit].mean(0)
    a, b = x[fit] - mean_x, out[fit] - mean_y
    gram, moment = a.T @ a / len(a), a.T @ b / len(a)
    scale = np.trace(gram) / len(gram)
    solve = lambda penalty: np.linalg.solve(gram + 1e-2 * penalty * scale * np.eye(len(gram)), moment)
    error = lambda weights: ((np.clip((x[check] - mean_x) @ weights + mean_y, 0, 1) - out[check]) ** 2).mean()
    weights = min((solve(penalty) for penalty in _RIDGES), key=error)
    return np.clip((queries - mean_x) @ weights + mean_y, 0, 1).reshape(len(queries), *y.shape[1:])


def neighbours(x: np.ndarray, y: np.ndarray, queries: np.ndarray, count: int) -> np.ndarray:
    """The mean y of the `count` training examples with the nearest x."""
    x, queries = (a.reshape(len(a), -1).astype(np.float32) for a in (x, queries))
    found = np.empty((len(queries), *y.shape[1:]))
    norms = (x**2).sum(1)
    for first in range(0, len(queries), 256):
        rows = slice(first, first + 256)
        near = np.argpartition(norms - 2 * queries[rows] @ x.T, count - 1, 1)[:, :count]
        found[rows] = y[near].mean(1)
    return found


def harmonic(pictures: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """The pixels of the hole (N, K, C) of which each is the mean of its neighbours within the picture."""
    height, width = hole.shape
    places = np.argwhere(hole)
    number = {tuple(place): i for i, place in enumerate(places)}
    matrix = scipy.sparse.lil_matrix((len(places), len(places)))
    right = np.zeros((len(places), len(pictures), pictures.shape[-1]))
    for i, (row, column) in enumerate(places):
        around = [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
        around = [(r, c) for r, c in around if 0 <= r < height and 0 <= c < width]
        matrix[i, i] = len(around)
        for r, c in around:
            if hole[r, c]:
                matrix[i, number[r, c]] = -1
            else:
                right[i] += pictures[:, r, c]
    solution = np.asarray(scipy.sparse.linalg.spsolve(matrix.tocsc(), right.reshape(len(places), -1)))
    return np.clip(solution.reshape(right.shape).swapaxes(0, 1), 0, 1)


def _filled(pictures: np.ndarray, hole: np.ndarray, inside: np.ndarray) -> np.ndarray:
    whole = pictures.copy()
    whole[:, hole] = inside
    return whole
