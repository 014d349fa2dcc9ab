"""What a network is told in training: how it is made of the data, how often it is left out, what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.conditions import Conditions, Residual, center, enlarged, known_pixels, made_smaller, read_embeddings
from experiments.errors import UserError
from experiments.recipes import get
from jaxdiff import noise, oracles, schedules

KEYS = noise.sample_keys(jax.random.key(0), 2000)
SIZE = (8, 12)


def test_holes_are_of_the_kinds_that_were_asked_for():
    np.testing.assert_array_equal(known_pixels(KEYS, SIZE, ("center",)), np.broadcast_to(~center(SIZE), (2000, *SIZE)))
    assert center(SIZE).sum() == 4 * 6
    box = ~np.asarray(known_pixels(KEYS, SIZE, ("box",)))
    rows, columns = box.any(2), box.any(1)
    np.testing.assert_array_equal(box, rows[:, :, None] & columns[:, None, :])
    for sides, size in ((rows, 8), (columns, 12)):
        assert (sides.sum(1) >= size / 4).all() and (sides.sum(1) <= 3 * size / 4).all()
        assert sides.any(0).all()  # no place is spared
        edges = np.abs(np.diff(np.pad(sides.astype(int), ((0, 0), (1, 1))), axis=1)).sum(1)
        np.testing.assert_array_equal(edges, 2)  # one stretch
    np.testing.assert_array_equal(known_pixels(KEYS, SIZE, ("outside",)), box)
    mixed = np.asarray(known_pixels(KEYS, SIZE, ("center", "outside")))
    share = (mixed == ~np.asarray(center(SIZE))).all((1, 2)).mean()
    assert abs(share - 0.5) < 0.05


def test_what_is_told_belongs_to_the_example():
    few = KEYS[7:9]
    np.testing.assert_array_equal(known_pixels(few, SIZE, ("box",)), known_pixels(KEYS, SIZE, ("box",))[7:9])


def test_smaller_pictures_keep_their_means_and_are_of_either_factor():
    x0 = jnp.asarray(np.random.default_rng(0).normal(size=(400, 8, 8, 1)), jnp.float32)
    told = made_smaller(KEYS[:400], x0, (2, 4))
    halves, quarters = (enlarged(x0.reshape(400, 8 // f, f, 8 // f, f, 1).mean((2, 4)), (8, 8)) for f in (2, 4))
    is_half = np.isclose(told, halves, atol=1e-5).all((1, 2, 3))
    is_quarter = np.isclose(told, quarters, atol=1e-5).all((1, 2, 3))
    assert (is_half ^ is_quarter).all() and 0.4 < is_half.mean() < 0.6


def test_each_part_is_left_out_by_itself_and_observed_in_its_turn():
    conditions = Conditions(smaller=(2,), holes=("center",))
    null = conditions.null(10)
    seen = {}

    def objective(apply, params, ema, keys, batch, t):
        seen.update(batch)
        return jnp.zeros(len(t)), {}

    x0 = jnp.ones((2000, 8, 8, 1))
    batch = {"x0": x0, "cond": jnp.arange(2000) % 10}
    conditions.told(objective, null, 0.25)(None, None, None, KEYS, batch, jnp.zeros(2000))
    no_label, no_image = seen["cond"]["label"] == 10, (seen["cond"]["image"] == 0).all((1, 2, 3))
    nothing = ~seen["observed"].any((1, 2))
    # 1 in 4 lose everything, and of the rest 1 in 4 each part by itself.
    for left_out in (no_label, no_image, nothing):
        assert abs(left_out.mean() - (1 - 0.75**2)) < 0.04
    assert abs((no_label & no_image & nothing).mean() - (0.25 + 0.75 * 0.25**3)) < 0.04
    assert abs((no_label & no_image).mean() - (0.25 + 0.75 * 0.25**2)) < 0.04
    kept = ~np.asarray(no_label)
    np.testing.assert_array_equal(np.asarray(seen["cond"]["label"])[kept], (np.arange(2000) % 10)[kept])

    unlabeled = Conditions(label=False, holes=("center",))
    assert unlabeled.null(0) is None
    unlabeled.told(objective, None, 0.0)(None, None, None, KEYS, batch, jnp.zeros(2000))
    assert seen["cond"] is None and seen["observed"].any((1, 2)).all()
    plain = Conditions()
    assert plain.told(objective, plain.null(10), 0.1) is objective  # labels alone are the objective's own affair


def test_a_residual_is_what_the_small_picture_lacks():
    """A denoiser of r = x0 - m is one of x0: exact on normal data around a mean that differs between examples."""
    conditions, seen = Conditions(label=False, smaller=(2,), residual=True), {}

    def objective(apply, params, ema, keys, batch, t):
        seen.update(batch)
        return jnp.zeros(len(t)), {}

    x0 = jnp.asarray(np.random.default_rng(0).normal(size=(500, 8, 8, 1)), jnp.float32)
    conditions.told(objective, conditions.null(0), 0.2)(None, None, None, KEYS[:500], {"x0": x0}, jnp.zeros(500))
    m = seen["cond"]["image"]
    np.testing.assert_allclose(seen["x0"] + m, x0, atol=1e-6)
    left_out = (m == 0).all((1, 2, 3))
    assert abs(left_out.mean() - 0.2) < 0.06  # one part alone: by itself is all together
    np.testing.assert_allclose(m[~left_out], made_smaller(KEYS[:500], x0, (2,))[~left_out], atol=1e-6)

    schedule, variance = schedules.Cosine(), 0.04
    of_rest = oracles.GaussianMixture(weights=jnp.ones(1), means=jnp.zeros((1, 64)), covariances=variance * jnp.ones(1))
    flat = of_rest.denoiser(schedule)
    shaped = jax.tree_util.Partial(lambda x, t, cond: flat(x.reshape(-1, 64), t).reshape(x.shape))
    denoise = Residual(denoise=shaped, schedule=schedule)
    alpha, sigma = schedule(jnp.float32(0.3))
    x = alpha * x0 + sigma * jax.random.normal(jax.random.key(0), x0.shape)
    gain = alpha * variance / (alpha**2 * variance + sigma**2)
    np.testing.assert_allclose(denoise(x, 0.3, {"image": m}), m + gain * (x - alpha * m), atol=1e-5)
    np.testing.assert_allclose(denoise(x, 0.3), gain * x, atol=1e-5)


def test_bad_conditions(tmp_path):
    with pytest.raises(ValueError, match="factors of at least 2"):
        Conditions(smaller=(1,))
    for other in ({}, {"smaller": (2,), "holes": ("box",)}):
        with pytest.raises(ValueError, match=r"what a picture made --conditions\.smaller lacks"):
            Conditions(residual=True, **other)
    with pytest.raises(ValueError, match="must divide the pictures' 8 x 8 pixels, got 3"):
        Conditions(smaller=(3,)).features((8, 8, 1))
    with pytest.raises(ValueError, match=r"for pictures, got data of shape \(128,\)"):
        Conditions(holes=("box",)).features((128,))
    path = tmp_path / "rows.npy"
    with pytest.raises(UserError, match=r"needed a \.npy file"):
        read_embeddings(str(path))
    np.save(path, np.zeros((4, 3), int))
    with pytest.raises(UserError, match="float vectors"):
        read_embeddings(str(path))
    np.save(path, np.zeros((4, 3)))
    assert read_embeddings(str(path), 4).dtype == np.float32
    with pytest.raises(UserError, match="4 rows and the data 5 training examples"):
        read_embeddings(str(path), 5)
    with pytest.raises(ValueError, match="--latents go with labels alone"):
        dataclasses.replace(get("inpaint"), latents="runs/autoencoder")
    with pytest.raises(ValueError, match="leave the other --conditions out"):
        dataclasses.replace(get("mnist_binary"), conditions=Conditions(holes=("box",)))
