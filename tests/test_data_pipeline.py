"""Batches: which example stands where, sharding, checkpoints, flips, speed; and the way from pixels to numbers."""

import time

import numpy as np
import pytest

pytest.importorskip("grain")

from experiments.data import Batches, Split, batches, from_pixels, to_pixels
from experiments.data.order import coins, permutation
from experiments.errors import UserError


def make_split(count, labeled=True, shape=(2, 3, 1)):
    """Example i has pixels that spell i, so a batch shows which examples it holds."""
    pixels = np.zeros((count, *shape), np.uint8)
    pixels[:, 0, 0, 0] = np.arange(count) % 256
    pixels[:, 1, 0, 0] = np.arange(count) // 256
    return Split(images=pixels, labels=np.arange(count, dtype=np.int32) if labeled else None)


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


def assert_same(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


class TestStream:
    def test_shapes_ranges_and_index(self):
        found = take(batches(make_split(10), batch_size=4, seed=0), 5)
        for step, batch in enumerate(found):
            assert {k: (v.shape, v.dtype.name) for k, v in batch.items()} == {
                "x0": ((4, 2, 3, 1), "float32"),
                "cond": ((4,), "int32"),
                "index": ((4,), "int32"),
            }
            np.testing.assert_array_equal(batch["index"], np.arange(4 * step, 4 * step + 4))
            assert np.abs(batch["x0"]).max() <= 1

    def test_pixels_and_labels_belong_together(self):
        for batch in take(batches(make_split(700), batch_size=64, seed=1), 12):
            pixels = to_pixels(batch["x0"]).astype(int)
            np.testing.assert_array_equal(pixels[:, 0, 0, 0] + 256 * pixels[:, 1, 0, 0], batch["cond"])

    def test_every_epoch_is_a_new_permutation(self):
        split = make_split(50)
        seen = np.concatenate([b["cond"] for b in take(batches(split, batch_size=10, seed=3), 15)]).reshape(3, 50)
        for epoch in seen:
            np.testing.assert_array_equal(np.sort(epoch), np.arange(50))
        assert not np.array_equal(seen[0], seen[1])
        assert not np.array_equal(seen[1], seen[2])

    def test_seeds_give_unrelated_orders(self):
        # grain's own shuffle seeds epoch e with seed + e: there, seed 1 begins with the second epoch of seed 0.
        first, second = (Batches(split=make_split(50), batch_size=50, seed=seed) for seed in (0, 1))
        assert not np.array_equal(first[1]["cond"], second[0]["cond"])

    def test_epochs_meet_inside_a_batch(self):
        seen = np.concatenate([b["cond"] for b in take(batches(make_split(7), batch_size=5, seed=0), 7)]).reshape(5, 7)
        for epoch in seen:
            np.testing.assert_array_equal(np.sort(epoch), np.arange(7))

    def test_a_batch_may_exceed_the_split(self):
        batch = next(batches(make_split(4), batch_size=10, seed=0))
        assert sorted(np.bincount(batch["cond"], minlength=4).tolist()) == [2, 2, 3, 3]
        np.testing.assert_array_equal(batch["index"], np.arange(10))

    def test_unlabeled_has_no_cond(self):
        assert set(next(batches(make_split(6, labeled=False), batch_size=2, seed=0))) == {"x0", "index"}

    def test_index_wraps_at_two_to_the_31(self):
        batch = Batches(split=make_split(3), batch_size=4, seed=0)[2**29]
        assert batch["index"].tolist() == [0, 1, 2, 3]

    def test_start_leaves_batches_out(self):
        split = make_split(23)
        later = batches(split, batch_size=4, seed=5, start=9)
        assert later.get_state() == {"next_index": 9}
        assert_same(take(later, 4), take(batches(split, batch_size=4, seed=5), 13)[9:])

    @pytest.mark.parametrize("prefetch", [0, 1, 5])
    def test_prefetch_changes_nothing(self, prefetch):
        split = make_split(23)
        expected = take(batches(split, batch_size=4, seed=5), 8)
        assert_same(take(batches(split, batch_size=4, seed=5, prefetch=prefetch), 8), expected)


class TestProcesses:
    @pytest.mark.parametrize("processes", [2, 3, 4])
    @pytest.mark.parametrize("count", [5, 24, 31])
    def test_union_is_the_batch_of_one_process(self, processes, count):
        split, size = make_split(count), 12
        alone = batches(split, batch_size=size, seed=7, flip=True)
        hosts = [
            batches(split, batch_size=size, seed=7, flip=True, process_index=h, process_count=processes)
            for h in range(processes)
        ]
        for _ in range(6):
            expected, parts = next(alone), [next(host) for host in hosts]
            for h, part in enumerate(parts):
                assert len(part["index"]) == size // processes
                np.testing.assert_array_equal(part["index"] % processes, (expected["index"][0] + h) % processes)
            order = np.argsort(np.concatenate([part["index"] for part in parts]))
            for key in expected:
                np.testing.assert_array_equal(np.concatenate([part[key] for part in parts])[order], expected[key])


class TestCheckpoints:
    def test_state_gives_exactly_the_same_batches(self):
        iterator = batches(make_split(40), batch_size=8, seed=2, flip=True)
        take(iterator, 7)
        state = iterator.get_state()
        expected = take(iterator, 9)
        fresh = batches(make_split(40), batch_size=8, seed=2, flip=True, prefetch=4)
        fresh.set_state(state)
        assert_same(take(fresh, 9), expected)
        iterator.set_state(state)
        assert_same(take(iterator, 9), expected)

    def test_orbax_carries_the_position(self, tmp_path):
        ocp = pytest.importorskip("orbax.checkpoint")
        import grain

        iterator = batches(make_split(40), batch_size=8, seed=2)
        take(iterator, 11)
        with ocp.CheckpointManager(tmp_path) as manager:
            manager.save(11, args=ocp.args.Composite(data=grain.checkpoint.CheckpointSave(iterator)))
            manager.wait_until_finished()
            expected = take(iterator, 5)
            fresh = batches(make_split(40), batch_size=8, seed=2)
            manager.restore(11, args=ocp.args.Composite(data=grain.checkpoint.CheckpointRestore(fresh)))
        assert_same(take(fresh, 5), expected)


class TestFlip:
    def test_mirrors_half_and_nothing_else(self):
        plain = take(batches(make_split(100, shape=(2, 4, 3)), batch_size=100, seed=0), 20)
        flipped = take(batches(make_split(100, shape=(2, 4, 3)), batch_size=100, seed=0, flip=True), 20)
        mirrored = 0
        for a, b in zip(plain, flipped, strict=True):
            same = (a["x0"] == b["x0"]).all((1, 2, 3))
            turned = (a["x0"][:, :, ::-1] == b["x0"]).all((1, 2, 3))
            assert (same | turned).all()
            mirrored += int((turned & ~same).sum())
        asymmetric = 2000 - 20  # example 0 is black: its own mirror image
        assert abs(mirrored - asymmetric / 2) < 4 * np.sqrt(asymmetric / 4)

    def test_leaves_the_data_alone(self):
        split = make_split(16)
        before = np.array(split.images[:])
        take(batches(split, batch_size=16, seed=0, flip=True), 3)
        np.testing.assert_array_equal(split.images[:], before)

    def test_coins_are_fair_and_independent_of_the_batch(self):
        tossed = coins(np.arange(100_000), seed=4)
        assert abs(tossed.mean() - 0.5) < 0.01
        assert abs(np.mean(tossed[1:] == tossed[:-1]) - 0.5) < 0.01
        np.testing.assert_array_equal(coins(np.array([17, 5]), seed=4), tossed[[17, 5]])
        assert not np.array_equal(coins(np.arange(64), seed=5), tossed[:64])


class TestWrongInputs:
    @pytest.mark.parametrize(
        ("wrong", "says"),
        [
            ({"batch_size": 10, "process_count": 4}, "multiple of process_count"),
            ({"batch_size": 0}, "positive"),
            ({"batch_size": -4}, "positive"),
            ({"process_index": 2, "process_count": 2}, "process_index"),
            ({"process_index": -1}, "process_index"),
            ({"seed": -1}, "seed"),
            ({"start": -1}, "start"),
            ({"prefetch": -1}, "prefetch"),
        ],
    )
    def test_batches(self, wrong, says):
        with pytest.raises(UserError, match=says):
            batches(make_split(8), **({"batch_size": 4, "seed": 0} | wrong))

    def test_empty_split(self):
        with pytest.raises(UserError, match="empty"):
            batches(make_split(0), batch_size=4, seed=0)


class TestPixels:
    def test_round_trip_is_exact(self):
        pixels = np.arange(256, dtype=np.uint8).reshape(2, 8, 16)
        x = from_pixels(pixels)
        assert x.dtype == np.float32
        assert (x.min(), x.max()) == (-1, 1)
        np.testing.assert_allclose(x, pixels / 127.5 - 1, atol=1e-7)
        np.testing.assert_array_equal(to_pixels(x), pixels)

    def test_clips_and_rounds(self):
        assert to_pixels(np.array([-9, -1, 0.5 / 127.5 - 1 + 1e-3, 1, np.inf])).tolist() == [0, 0, 1, 255, 255]

    def test_accepts_jax_arrays(self):
        import jax.numpy as jnp

        assert to_pixels(jnp.zeros((2, 2), jnp.bfloat16)).tolist() == [[128, 128], [128, 128]]

    def test_refuses_nan_and_other_dtypes(self):
        with pytest.raises(ValueError, match="NaN"):
            to_pixels(np.array([0.0, np.nan]))
        with pytest.raises(ValueError, match="uint8"):
            from_pixels(np.zeros(3, np.float32))


def test_permutation_never_changes():
    """A run resumed with another NumPy must see the same order: these numbers may not move."""
    assert permutation(10, 0, 0).tolist() == [0, 8, 9, 3, 7, 5, 1, 2, 6, 4]
    np.testing.assert_array_equal(np.sort(permutation(1000, 1, 2)), np.arange(1000))


def test_split_indexing():
    split = make_split(9)
    image, label = split[4]
    assert image.shape == (2, 3, 1)
    assert label == 4
    images, labels = split[[1, 7]]
    assert images.shape == (2, 2, 3, 1)
    assert labels.tolist() == [1, 7]
    assert make_split(9, labeled=False)[2:4][1] is None


def test_feeds_a_training_loop(record_property):
    """28x28 gray, batches of 128: far above what any training loop on these cores consumes."""
    split = make_split(60_000, shape=(28, 28, 1))
    iterator = batches(split, batch_size=128, seed=0)
    take(iterator, 10)
    began = time.perf_counter()
    take(iterator, 400)
    rate = 400 * 128 / (time.perf_counter() - began)
    record_property("examples_per_second", rate)
    assert rate > 5_000  # a tenth of what a busy core gives
