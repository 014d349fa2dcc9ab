"""How good a set of samples is: one dict of plain numbers, the same for a model, a baseline and the training split.

    frechet           R = F(samples, test) / F(train, test), F the Frechet distance of a judge's features (1706.08500)
    class_consistency fraction of samples that a judge gives the class they were conditioned on
    precision, recall, density, coverage     against the test split (1904.06991, 2002.09797)
    memorisation      median distance of samples to the nearest training image / that of test images

What makes the figures honest:

- R = 1 means as near to the test split as other real data are. F between finite sets is biased upwards by about
  (1/N + 1/M) D, for noise as for data, so both distances of R use `count` rows against one test split, and the floor
  is computed in the same call. Bias remains in the ratio: it draws R towards 1, the more so the smaller the test split.
- The judge was trained on the training split, whose features are therefore a little sharper than those of any other
  data. That adds to F(train, test), so R slightly below 1 says "indistinguishable", never "better than data".
- `frechet_std` is a bootstrap over samples, training and test images; `frechet_spread` is over judges.
- Copies of training images have R = 1 and the best consistency; only `memorisation_ratio`, then 0, betrays them.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.errors import UserError
from experiments.judge import Judge
from jaxdiff.metrics import density_coverage, frechet_distance, nearest_distance, precision_recall

NEIGHBOURS = 5_000  # rows a set for figures whose cost is quadratic
FEWEST = 6  # images a set: density and coverage look at 5 neighbours

Labels = np.ndarray | None


@dataclasses.dataclass(frozen=True, eq=False)
class _Real:
    """The real splits, their features under each judge, and the figures that do not depend on samples."""

    train: np.ndarray
    train_labels: Labels
    judges: Sequence[Judge]
    train_features: list[np.ndarray]
    test_features: list[np.ndarray]
    accuracy: float
    test_distance: float


def scores(
    samples: np.ndarray,
    labels: Labels,
    train: np.ndarray,
    train_labels: Labels,
    test: np.ndarray,
    test_labels: Labels,
    judges: Sequence[Judge],
    *,
    resamples: int = 20,
    seed: int = 0,
) -> dict[str, Any]:
    """The figures of one set of samples.

    Args:
        samples: uint8 (N, H, W, C), as many as training images if they can be afforded, classes in their proportions
            (`proportional_labels`). With fewer, the floor uses as many training images, drawn at random.
        labels: the classes the samples were conditioned on, int (N,), or None.
        train, test: the real splits, uint8 (., H, W, C); the judges were trained on `train`.
        train_labels, test_labels: int (.,), or None where the judges are not `labelled`.
        judges: trained with different seeds, at least one.
        resamples, seed: bootstrap resamples of `frechet_std`; seed of these and of subsets.

    Returns:
        JSON-able figures. Besides those above: `count` (rows of both sides of R), `test_count`, `neighbour_count`
        (rows a set of precision, recall, density, coverage and memorisation), `judge_seeds`, `judge_accuracy` on the
        test split, `frechet_per_judge`, `frechet_samples` and `frechet_floor` (mean distances that R divides),
        `*_floor` (the training split in the samples' place), `class_shift` (total variation between the classes of
        samples and of train, in [0, 1]), `memorisation_samples` and `memorisation_test` (median Euclidean distances,
        pixels in [0, 1]). `class_consistency` and `class_shift` are None without classes.

    Raises:
        UserError: more samples than training images, sizes or labels that do not belong together, no judge.
    """
    return _figures(samples, labels, _real(train, train_labels, test, test_labels, judges, seed), resamples, seed)


def compare(
    sets: Mapping[str, tuple[np.ndarray, Labels]],
    train: np.ndarray,
    train_labels: Labels,
    test: np.ndarray,
    test_labels: Labels,
    judges: Sequence[Judge],
    *,
    resamples: int = 20,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """`scores` of named sets, `{name: (samples, labels)}`, with the work on real images done once.

    The floor is the set `"train": (train, train_labels)`, the model to beat `gaussian_baseline`.
    """
    real = _real(train, train_labels, test, test_labels, judges, seed)
    return {name: _figures(samples, labels, real, resamples, seed) for name, (samples, labels) in sets.items()}


def proportional_labels(train_labels: np.ndarray, count: int) -> np.ndarray:
    """`count` labels, sorted, in the proportions of the training split (largest remainders), int (count,)."""
    classes, sizes = np.unique(train_labels, return_counts=True)
    exact = sizes * count / sizes.sum()
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: count - counts.sum()]] += 1
    return np.repeat(classes, counts)


def gaussian_baseline(train: np.ndarray, train_labels: Labels, labels: Labels, seed: int) -> np.ndarray:
    """Samples of a Gaussian with each class's mean and full covariance in pixel space: the model to beat.

    With the centred rows A = QR of a class, its covariance is R^T R / (n - 1), so mean + z R / sqrt(n - 1), z standard
    normal, has it exactly. Nothing is inverted: singular covariances (constant pixels, fewer rows than pixels) need
    no shrinkage. Values are clipped to the range of the training pixels and rounded.

    Args:
        train: uint8 (n, H, W, C).
        train_labels: int (n,), or None for one Gaussian.
        labels: the class of each sample, int (N,); None stands for `train_labels`.
        seed: of the draws.

    Returns:
        Samples, uint8 (N, H, W, C).

    Raises:
        UserError: a class without training images, or labels for data that have none.
    """
    if train_labels is None and labels is not None:
        raise UserError("training images without labels have one Gaussian: pass labels=None")
    of_train = np.zeros(len(train), int) if train_labels is None else np.asarray(train_labels)
    wanted = of_train if labels is None else np.asarray(labels)
    rng = np.random.default_rng(seed)
    samples = np.empty((len(wanted), *train.shape[1:]), np.uint8)
    for label in np.unique(wanted):
        rows, places = train[of_train == label], np.flatnonzero(wanted == label)
        if not len(rows):
            raise UserError(f"class {label} has no training image to fit a Gaussian to")
        x = rows.reshape(len(rows), -1).astype(np.float64)
        mean = x.mean(0)
        root = np.linalg.qr(x - mean, mode="r") / np.sqrt(max(len(x) - 1, 1))
        drawn = mean + rng.standard_normal((len(places), len(root))) @ root
        samples[places] = np.rint(drawn.clip(train.min(), train.max())).reshape(-1, *train.shape[1:])
    return samples


def _real(train, train_labels, test, test_labels, judges, seed) -> _Real:
    if not judges:
        raise UserError("scores need at least one trained judge; three seeds show their spread")
    for name, images, labels in (("train", train, train_labels), ("test", test, test_labels)):
        if labels is not None and len(labels) != len(images):
            raise UserError(f"{name} has {len(images)} images and {len(labels)} labels")
        if len(images) < FEWEST:
            raise UserError(f"scores need at least {FEWEST} {name} images, got {len(images)}")
    if np.array_equal(train, test):
        raise UserError("the training and test splits are the same images: F(train, test) = 0 measures nothing")
    return _Real(
        train=train,
        train_labels=train_labels,
        judges=judges,
        train_features=[judge.features(train) for judge in judges],
        test_features=[judge.features(test) for judge in judges],
        accuracy=float(np.mean([judge.accuracy(test, test_labels) for judge in judges])),
        test_distance=float(np.median(_nearest(_subset(test, min(NEIGHBOURS, len(test)), seed), train))),
    )


def _figures(samples: np.ndarray, labels: Labels, real: _Real, resamples: int, seed: int) -> dict[str, Any]:
    count = len(samples)
    if not FEWEST <= count <= len(real.train):
        raise UserError(
            f"R compares at most as many samples as training images: needed {FEWEST} to {len(real.train)}, got {count}"
        )
    if labels is not None and len(labels) != count:
        raise UserError(f"{count} samples came with {len(labels)} labels")
    features, predicted = zip(*(judge.evaluate(samples) for judge in real.judges), strict=True)
    train_features = [_subset(f, count, seed) for f in real.train_features]

    ratios, over, under = _ratios(features, train_features, real.test_features)
    spread = [
        np.mean(
            _ratios(*_resample((features, train_features, real.test_features), np.random.default_rng([seed, i])))[0]
        )
        for i in range(resamples)
    ]
    test_count = len(real.test_features[0])
    near = min(NEIGHBOURS, count, test_count)
    tests = [_subset(f, near, seed) for f in real.test_features]
    manifold = _manifold(tests, [_subset(f, near, seed) for f in features])
    floor = _manifold(tests, [_subset(f, near, seed) for f in train_features])
    distance = float(np.median(_nearest(_subset(samples, near, seed), real.train)))
    classes = labels is not None and all(judge.labelled for judge in real.judges)
    return {
        "count": count,
        "test_count": test_count,
        "neighbour_count": near,
        "judge_seeds": [judge.seed for judge in real.judges],
        "judge_accuracy": real.accuracy,
        "frechet": float(np.mean(ratios)),
        "frechet_std": float(np.std(spread, ddof=1)) if resamples > 1 else None,
        "frechet_spread": float(np.std(ratios, ddof=1)) if len(ratios) > 1 else None,
        "frechet_per_judge": [float(ratio) for ratio in ratios],
        "frechet_samples": float(np.mean(over)),
        "frechet_floor": float(np.mean(under)),
        "class_consistency": float(np.mean([p == np.asarray(labels) for p in predicted])) if classes else None,
        "class_shift": _class_shift(labels, real.train_labels),
        **manifold,
        **{f"{name}_floor": value for name, value in floor.items()},
        "memorisation_samples": distance,
        "memorisation_test": real.test_distance,
        "memorisation_ratio": distance / real.test_distance if real.test_distance > 0 else None,
    }


def _ratios(samples, train, test):
    """R and both its distances, for each judge."""
    over, under = (np.array([frechet_distance(a, b) for a, b in zip(x, test, strict=True)]) for x in (samples, train))
    return over / under, over, under


def _resample(sets, rng):
    """A bootstrap resample of each set, the same rows for all judges."""
    rows = (rng.integers(len(features[0]), size=len(features[0])) for features in sets)
    return [[f[r] for f in features] for features, r in zip(sets, rows, strict=True)]


def _manifold(real, fake) -> dict[str, float]:
    figures = [(*precision_recall(a, b), *density_coverage(a, b)) for a, b in zip(real, fake, strict=True)]
    return dict(zip(("precision", "recall", "density", "coverage"), np.mean(figures, 0).tolist(), strict=True))


def _class_shift(labels: Labels, train_labels: Labels) -> float | None:
    if labels is None or train_labels is None:
        return None
    classes = np.unique(np.concatenate([labels, train_labels]))
    a, b = ((np.asarray(x)[:, None] == classes).mean(0) for x in (labels, train_labels))
    return float(np.abs(a - b).sum() / 2)


def _subset(rows: np.ndarray, count: int, seed: int) -> np.ndarray:
    """`count` rows drawn without replacement, the same for the same length and seed."""
    return rows if count == len(rows) else rows[np.sort(np.random.default_rng(seed).permutation(len(rows))[:count])]


def _nearest(images: np.ndarray, references: np.ndarray) -> np.ndarray:
    return nearest_distance(images.reshape(len(images), -1), references.reshape(len(references), -1)) / 255
