"""A judge: a small convolutional classifier trained on the real training split, whose features carry the scores.

The penultimate layer of `judge_network.Classifier` plays the part of Inception in the Frechet distance (arXiv
1706.08500) at the scale of the data set: a judge of 8x8 digits trains in seconds. Distances under two judges are not
comparable, so an evaluation trains several seeds on one training split and states their spread. Judges never see the
test split.

Data without labels are judged by a network that tells by how much an image was turned (arXiv 1803.07728): 0, 90, 180 or
270 degrees where images are square, 0 or 180 otherwise. `labelled` is then False and class consistency has no meaning.

`experiments.judge_cache` keeps trained judges on disk.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from experiments import judge_cache
from experiments.errors import UserError
from experiments.judge_network import FEATURES, Classifier, Shape

VERSION = "1"  # part of a cached judge's name: raise it with any change to the network or its training
BATCH, MOST_EPOCHS, MOST_IMAGES, FEWEST_STEPS = 64, 25, 300_000, 300
LEARNING_RATE, WEIGHT_DECAY = 3e-3, 1e-2
CHUNK = 512  # images of one call when features are computed


@functools.cache
def _network(shape: Shape, classes: int) -> tuple[Any, Any]:
    """Structure of the network, and a nested dict with the shapes of its parameters."""
    graphdef, state = nnx.split(nnx.eval_shape(lambda: Classifier(shape, classes, nnx.Rngs(0))))
    return graphdef, nnx.to_pure_dict(state)


def _init(specs: Any, seed: int) -> Any:
    # He's normal drawn by NumPy: compiling Flax's initialisers takes 4 s, half the budget of a small judge.
    rng = np.random.default_rng(seed)

    def draw(spec):
        std = np.sqrt(2 / np.prod(spec.shape[:-1])) if len(spec.shape) > 1 else 0.0
        return jnp.asarray(std * rng.standard_normal(spec.shape), jnp.float32)

    return jax.tree.map(draw, specs)


@functools.cache
def _trainer(shape: Shape, classes: int, steps: int) -> tuple[optax.GradientTransformation, Callable[..., Any]]:
    """The optimizer and the jitted step: one compilation for all seeds."""
    graphdef, _ = _network(shape, classes)
    rate = optax.schedules.cosine_onecycle_schedule(steps, LEARNING_RATE, pct_start=0.2)
    optimizer = optax.adamw(rate, weight_decay=WEIGHT_DECAY)
    shift = max(1, min(shape[:2]) // 28)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, images, labels, mean, std, key):
        key_shift, key_dropout = jax.random.split(key)
        x = (images.astype(jnp.float32) - mean) / std
        x = jnp.pad(x, ((0, 0), (shift, shift), (shift, shift), (0, 0)), mode="edge")
        row, column = jax.random.randint(key_shift, (2,), 0, 2 * shift + 1)  # one for the batch: no gather
        x = jax.lax.dynamic_slice(x, (0, row, column, 0), images.shape)

        def loss(params):
            net = nnx.merge(graphdef, nnx.State(params))
            logits = net.logits(net.features(x), key_dropout)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    return optimizer, step


@functools.cache
def _evaluator(shape: Shape, classes: int) -> Callable[..., tuple[jax.Array, jax.Array]]:
    graphdef, _ = _network(shape, classes)

    @jax.jit
    def evaluate(params, images, mean, std):
        net = nnx.merge(graphdef, nnx.State(params))
        features = net.features((images.astype(jnp.float32) - mean) / std)
        return features, jnp.argmax(net.logits(features), -1)

    return evaluate


@dataclasses.dataclass(frozen=True, eq=False)
class Judge:
    """A trained judge: plain parameters and the pixel statistics they were trained with.

    Attributes:
        labelled: whether the classes are those of the data; otherwise they are turns of the image.
    """

    params: Any
    mean: np.float32
    std: np.float32
    shape: Shape
    classes: int
    labelled: bool
    seed: int

    def evaluate(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features, float32 (N, 64), and predicted classes, int (N,), in one pass.

        Args:
            images: uint8 (N, H, W, C), of the size the judge was trained on.

        Raises:
            UserError: another dtype or size.
        """
        _check(images, self.shape)
        evaluate = _evaluator(self.shape, self.classes)
        features = np.empty((len(images), FEATURES), np.float32)
        predicted = np.empty(len(images), np.int64)
        for start in range(0, len(images), CHUNK):
            chunk = images[start : start + CHUNK]
            size = len(chunk)
            chunk = np.pad(chunk, ((0, CHUNK - size), (0, 0), (0, 0), (0, 0)))  # one shape, one compilation
            part = slice(start, start + size)
            features[part], predicted[part] = (
                np.asarray(a)[:size] for a in evaluate(self.params, chunk, self.mean, self.std)
            )
        return features, predicted

    def features(self, images: np.ndarray) -> np.ndarray:
        """Activations before the last layer, float32 (N, 64), at least 0."""
        return self.evaluate(images)[0]

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Most probable class, int (N,): of the data if `labelled`, else the number of the turn."""
        return self.evaluate(images)[1]

    def accuracy(self, images: np.ndarray, labels: np.ndarray | None = None) -> float:
        """Fraction of held-out images classified right, in [0, 1]; over all turns of them where there are no labels."""
        if not self.labelled:
            turned = [self.predict(_turn(images, i, self.classes)) == i for i in range(self.classes)]
            return float(np.mean(turned))
        if labels is None or len(labels) != len(images):
            raise UserError("this judge knows classes: its accuracy needs one label for each image")
        return float(np.mean(self.predict(images) == np.asarray(labels)))


def train_judge(
    images: np.ndarray,
    labels: np.ndarray | None,
    classes: int,
    *,
    seed: int,
    cache_dir: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Judge:
    """Train a judge, or read it from the cache. The same arguments give the same judge, bit for bit, on one machine.

    Args:
        images: the training split, uint8 (N, H, W, C), sides of 8 to 64 pixels, 1 or 3 channels.
        labels: integers (N,) in [0, classes), or None: the judge then learns turns and `classes` is not used.
        classes: number of classes, at least 2.
        seed: of initialisation, order, dropout and shifts.
        cache_dir: folder of trained judges, made if missing; None keeps nothing.
        progress: called with (step, steps) after each step; not called when the judge comes from the cache.

    Raises:
        UserError: images or labels of another kind.
    """
    _check(images)
    shape: Shape = (images.shape[1], images.shape[2], images.shape[3])
    if labels is None:
        classes, targets = (4 if shape[0] == shape[1] else 2), None
    else:
        targets = np.asarray(labels)
        if targets.shape != (len(images),) or not np.issubdtype(targets.dtype, np.integer) or classes < 2:
            raise UserError(
                f"a judge needs one integer label for each of {len(images)} images, got {targets.shape} "
                f"{targets.dtype}, and at least 2 classes, got {classes}; pass labels=None if there are none"
            )
        if targets.min() < 0 or targets.max() >= classes:
            raise UserError(f"labels must lie in [0, {classes}), got {targets.min()} to {targets.max()}")
        targets = targets.astype(np.int32)
    mean, std = np.float32(images.mean()), np.float32(images.std())
    if std == 0:
        raise UserError("a judge cannot learn from images whose pixels are all equal")

    name = judge_cache.name(VERSION, images, targets, classes, seed)
    path = None if cache_dir is None else Path(cache_dir) / f"judge-{name[:32]}.npz"
    params = None if path is None else judge_cache.load(path, name, _network(shape, classes)[1])
    if params is None:
        params = _train(images, targets, shape, classes, seed, mean, std, progress)
        if path is not None:
            judge_cache.save(path, name, params)
    return Judge(params, mean, std, shape, classes, labels is not None, seed)


def _train(images, labels, shape, classes, seed, mean, std, progress):
    size = min(BATCH, len(images))
    epochs = min(MOST_EPOCHS, max(1.0, MOST_IMAGES / len(images)))
    steps = max(FEWEST_STEPS, int(epochs * len(images) / size))
    optimizer, step = _trainer(shape, classes, steps)
    params = _init(_network(shape, classes)[1], seed)
    state = optimizer.init(params)
    rng, key = np.random.default_rng([seed, 1]), jax.random.key(seed)
    order = np.empty(0, np.int64)
    for i in range(steps):
        while len(order) < size:
            order = np.concatenate([order, rng.permutation(len(images))])
        rows, order = order[:size], order[size:]
        batch = images[rows]
        if labels is None:
            targets = rng.integers(classes, size=size, dtype=np.int32)
            batch = np.stack([_turn(image[None], turn, classes)[0] for image, turn in zip(batch, targets, strict=True)])
        else:
            targets = labels[rows]
        params, state = step(params, state, batch, targets, mean, std, jax.random.fold_in(key, i))
        if progress is not None:
            progress(i + 1, steps)
    return params


def _turn(images: np.ndarray, turn: int, turns: int) -> np.ndarray:
    return np.rot90(images, turn * (4 // turns), axes=(1, 2))


def _check(images: np.ndarray, shape: Shape | None = None) -> None:
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4 or not len(images):
        raise UserError(
            f"a judge needs images as a uint8 array (N, H, W, C), got {np.shape(images)} "
            f"{getattr(images, 'dtype', type(images).__name__)}"
        )
    _, height, width, channels = images.shape
    if shape is not None and images.shape[1:] != shape:
        raise UserError(f"this judge was trained on images of shape {shape}, got {images.shape[1:]}")
    if not (min(height, width) >= 8 and max(height, width) <= 64 and channels in (1, 3)):
        raise UserError(
            f"a judge needs sides of 8 to 64 pixels and 1 or 3 channels, got {images.shape[1:]}; resize first"
        )
