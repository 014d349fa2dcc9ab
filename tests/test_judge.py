"""A judge of scikit-learn's digits and the scores it gives: what is real scores as real, what is not does not."""

import json
import logging

import numpy as np
import pytest
from sklearn.datasets import load_digits

from experiments import judge as judges_module
from experiments.errors import UserError
from experiments.judge import train_judge
from experiments.scores import compare, gaussian_baseline, proportional_labels, scores

RESAMPLES = 8


@pytest.fixture(scope="module")
def digits():
    """`train, train_labels, test, test_labels`: a fifth of each class is the test split."""
    counts, labels = load_digits(return_X_y=True)
    images = np.rint(counts * 255 / 16).astype(np.uint8).reshape(-1, 8, 8, 1)
    rng = np.random.default_rng(0)
    test = np.concatenate([rng.permutation(np.flatnonzero(labels == label))[::5] for label in range(10)])
    train = np.setdiff1d(np.arange(len(labels)), test)
    return images[train], labels[train], images[test], labels[test]


@pytest.fixture(scope="module")
def judges(digits):
    return [train_judge(digits[0], digits[1], 10, seed=seed) for seed in range(3)]


@pytest.fixture(scope="module")
def quick():
    """A small problem that trains in a second: dim and bright halves."""
    rng = np.random.default_rng(0)
    labels = np.arange(64) % 2
    images = rng.integers(0, 100, (64, 8, 12, 3)) + 100 * labels[:, None, None, None]
    return images.astype(np.uint8), labels


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(judges_module, "FEWEST_STEPS", 20)
    monkeypatch.setattr(judges_module, "MOST_EPOCHS", 1)


def test_judges_know_held_out_digits(digits, judges):
    accuracies = [judge.accuracy(*digits[2:]) for judge in judges]
    assert min(accuracies) >= 0.97, accuracies
    features = judges[0].features(digits[2])
    assert features.shape == (len(digits[2]), 64)
    assert features.dtype == np.float32
    assert (features >= 0).all()
    assert judges[0].accuracy(*digits[2:]) == np.mean(judges[0].predict(digits[2]) == digits[3])


def test_steps_trace_once_for_all_seeds(quick, short):
    judges_module._trainer.cache_clear()
    judges = [train_judge(*quick, 2, seed=seed) for seed in range(3)]
    assert judges_module._trainer.cache_info().misses == 1
    _, step = judges_module._trainer((8, 12, 3), 2, 20)
    assert step._cache_size() == 1
    assert (judges[0].features(quick[0]) != judges[1].features(quick[0])).any()


def test_training_is_deterministic(quick, short):
    first, second = (train_judge(*quick, 2, seed=5) for _ in range(2))
    assert (first.features(quick[0]) == second.features(quick[0])).all()


def test_features_do_not_depend_on_the_split_of_a_set(digits, judges):
    whole = judges[0].features(digits[0][:600])
    np.testing.assert_allclose(whole[500:], judges[0].features(digits[0][500:600]), rtol=1e-5, atol=1e-5)


def test_a_cached_judge_is_read_and_a_damaged_one_trained_again(quick, short, tmp_path, caplog):
    steps = []
    train = lambda seed=1, labels=quick[1]: train_judge(
        quick[0], labels, 2, seed=seed, cache_dir=tmp_path / "judges", progress=lambda i, n: steps.append((i, n))
    )
    judge = train()
    assert steps == [(i, 20) for i in range(1, 21)]
    (path,) = (tmp_path / "judges").iterdir()
    good = path.read_bytes()

    steps.clear()
    again = train()
    assert not steps
    assert (again.features(quick[0]) == judge.features(quick[0])).all()

    half = len(good) // 2
    flipped = good[:half] + bytes([good[half] ^ 1]) + good[half + 1 :]
    for damaged in (flipped, good[:half], b"", b"not a judge"):
        path.write_bytes(damaged)
        steps.clear()
        with caplog.at_level(logging.WARNING):
            again = train()
        assert len(steps) == 20
        assert "damaged" in caplog.text
        assert (again.features(quick[0]) == judge.features(quick[0])).all()
        assert path.read_bytes() == good
        caplog.clear()

    train(seed=2)
    train(labels=1 - quick[1])
    other = next(file for file in path.parent.iterdir() if file != path)
    other.replace(path)  # whole, but of another judge
    steps.clear()
    train()
    assert len(steps) == 20
    assert not list(path.parent.glob("*.tmp"))


def test_without_labels_a_judge_learns_turns(digits, quick, short, monkeypatch):
    monkeypatch.setattr(judges_module, "FEWEST_STEPS", 150)
    judge = train_judge(digits[0], None, 0, seed=0)
    assert (judge.labelled, judge.classes) == (False, 4)
    assert judge.accuracy(digits[2]) > 0.6
    figures = scores(digits[0][:300], None, digits[0], None, digits[2], None, [judge], resamples=2)
    assert figures["class_consistency"] is None
    assert figures["class_shift"] is None
    monkeypatch.setattr(judges_module, "FEWEST_STEPS", 20)
    assert train_judge(quick[0], None, 0, seed=0).classes == 2  # not square: only half turns keep the shape


@pytest.mark.parametrize("shape", [(8, 8, 1), (17, 9, 3), (64, 48, 3)])
def test_sizes(shape, short):
    images = np.random.default_rng(0).integers(0, 256, (10, *shape), np.uint8)
    judge = train_judge(images, np.arange(10) % 3, 3, seed=0)
    assert judge.features(images).shape == (10, 64)


def test_real_data_score_as_real_and_a_gaussian_does_not(digits, judges):
    train, train_labels, test, _ = digits
    rng = np.random.default_rng(1)
    labels = proportional_labels(train_labels, len(train))
    gaussian = gaussian_baseline(train, train_labels, labels, 0)
    noise = rng.integers(0, 256, train.shape, np.uint8)
    sets = {"train": (train, train_labels), "gaussian": (gaussian, labels), "noise": (noise, labels)}
    figures = compare(sets, *digits, judges, resamples=RESAMPLES)

    copy = figures["train"]
    assert copy["frechet"] == 1
    assert copy["class_consistency"] > 0.985
    assert copy["memorisation_ratio"] == 0
    assert copy["class_shift"] == 0
    assert copy["precision"] == copy["precision_floor"]
    fake = figures["gaussian"]
    assert fake["frechet"] - 5 * fake["frechet_std"] > 1
    assert 0.5 < fake["class_consistency"] < copy["class_consistency"]
    assert fake["memorisation_ratio"] > 0.5
    assert figures["noise"]["frechet"] > 3 * fake["frechet"]
    assert figures["noise"]["coverage"] < 0.1
    for one in figures.values():
        assert json.loads(json.dumps(one, allow_nan=False)) == one
        assert (one["count"], one["test_count"], one["judge_seeds"]) == (len(train), len(test), [0, 1, 2])
    alone = scores(*sets["gaussian"], *digits, judges, resamples=RESAMPLES)
    assert alone.keys() == fake.keys()
    assert [alone[name] for name in ("frechet", "frechet_std")] == pytest.approx([fake["frechet"], fake["frechet_std"]])


def test_a_held_out_half_of_the_data_has_a_ratio_near_one(digits, judges):
    # Judges of the whole training split know both halves equally well, so nothing but chance tells them apart.
    train, train_labels, test, test_labels = digits
    order = np.random.default_rng(2).permutation(len(train))
    one, other = order[: len(order) // 2], order[len(order) // 2 :]
    figures = scores(train[one], train_labels[one], train[other], train_labels[other], test, test_labels, judges)
    assert abs(figures["frechet"] - 1) < 4 * figures["frechet_std"]
    assert 0.6 < figures["frechet"] < 1.6
    assert 0.9 < figures["memorisation_ratio"] < 1.1
    assert abs(figures["density"] - figures["density_floor"]) < 0.2


def test_fewer_samples_are_compared_with_as_many_training_images(digits, judges):
    train, train_labels, _, _ = digits
    figures = scores(train[:200], train_labels[:200], *digits, judges[:1], resamples=3)
    assert figures["count"] == figures["neighbour_count"] == 200
    assert figures["frechet_spread"] is None
    whole = scores(train, train_labels, *digits, judges[:1], resamples=3)
    assert figures["frechet_floor"] > whole["frechet_floor"]  # the bias of a smaller set is in the floor too


def test_the_gaussian_has_the_mean_and_covariance_of_its_class():
    rng = np.random.default_rng(3)
    mix = rng.standard_normal((64, 64)) * 2
    train = np.rint((rng.standard_normal((400, 64)) @ mix).clip(-100, 100) + 120).astype(np.uint8).reshape(-1, 8, 8, 1)
    train[:, 0] = 7  # constant pixels: a singular covariance
    labels = np.repeat([0, 1], 200)
    train[labels == 1, 1:] += 30
    drawn = gaussian_baseline(train, labels, np.repeat([1, 0], 20_000), 0).reshape(2, 20_000, 64).astype(float)
    for i, label in enumerate((1, 0)):
        rows = train[labels == label].reshape(200, 64).astype(float)
        scale = rows.std(0).max()
        np.testing.assert_allclose(drawn[i].mean(0), rows.mean(0), atol=0.05 * scale)
        np.testing.assert_allclose(np.cov(drawn[i].T), np.cov(rows.T), atol=0.1 * scale**2)
    assert (drawn[:, :, :8] == 7).all()
    assert len(gaussian_baseline(train[:5], None, None, 0)) == 5  # fewer rows than pixels
    same = [gaussian_baseline(train, labels, labels, seed) for seed in (0, 0, 1)]
    assert (same[0] == same[1]).all()
    assert (same[0] != same[2]).any()


def test_proportional_labels():
    labels = np.repeat([3, 1, 7], [50, 30, 21])
    assert (proportional_labels(labels, 101) == np.sort(labels)).all()
    assert np.unique(proportional_labels(labels, 10), return_counts=True)[1].tolist() == [3, 5, 2]
    assert len(proportional_labels(labels, 7)) == 7


def test_mistakes_name_the_mend(quick, digits, judges):
    images, labels = quick
    for bad in (images.astype(np.float32), images[:, :, :, 0], images[:, :4], images[:0], images[:, :, :, :2]):
        with pytest.raises(UserError, match="a judge needs"):
            train_judge(bad, labels[: len(bad)], 2, seed=0)
    with pytest.raises(UserError, match=r"\[0, 2\)"):
        train_judge(images, labels + 1, 2, seed=0)
    with pytest.raises(UserError, match="labels=None"):
        train_judge(images, labels[:3], 2, seed=0)
    with pytest.raises(UserError, match="equal"):
        train_judge(np.zeros_like(images), labels, 2, seed=0)
    with pytest.raises(UserError, match="trained on images"):
        judges[0].features(images)
    with pytest.raises(UserError, match="one label"):
        judges[0].accuracy(digits[2])
    train, train_labels, test, test_labels = digits
    with pytest.raises(UserError, match="needed 6 to"):
        scores(np.concatenate([train, test]), None, *digits, judges)
    with pytest.raises(UserError, match="trained judge"):
        scores(train, None, *digits, [])
    with pytest.raises(UserError, match="class 10"):
        gaussian_baseline(train, train_labels, np.array([10]), 0)
    with pytest.raises(UserError, match="same images"):
        scores(test, None, test, test_labels, test, test_labels, judges)
