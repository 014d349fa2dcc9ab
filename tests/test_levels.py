"""Pictures of a few levels as tokens: their arrays, their network, exact counting to compare with, and a run."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments import evaluate, pixel_models, train
from experiments.data.levels import from_levels, to_levels
from experiments.errors import UserError
from jaxdiff.networks import DiT, OneHot, UNet, functional

pytestmark = pytest.mark.usefixtures("compile_quickly")

SMALL = [
    *("--network.channels", "16", "--network.multipliers", "1", "--network.blocks", "1", "--network.attention"),
    *("8", "--network.head-dim", "16", "--devices", "1", "--batch-size", "32", "--steps", "100", "--log-every", "20"),
    *("--sampler.steps", "6", "--evaluation.judges", "1", "--ema", "0.9", "--optimizer.warmup", "10"),
]


@pytest.mark.parametrize("count", [2, 5, 256])
def test_levels_are_the_nearest_and_come_back(count):
    pixels = np.arange(256, dtype=np.uint8)
    levels = to_levels(pixels, count)
    assert levels.dtype == np.int32 and levels.min() == 0 and levels.max() == count - 1 and (np.diff(levels) >= 0).all()
    assert abs(from_levels(levels, count).astype(int) - pixels).max() <= 128 // (count - 1)
    np.testing.assert_array_equal(to_levels(from_levels(np.arange(count), count), count), np.arange(count))
    assert from_levels(np.array([count, -1]), count).tolist() == [127, 127]


INNER = {
    "unet": functools.partial(UNet, channels=8, multipliers=(1,), blocks=1, attention=(), num_classes=3),
    "dit": functools.partial(DiT, width=16, depth=1, heads=2, num_classes=3),
}


def make(kind, states=None):
    return functional(lambda rngs: OneHot(INNER[kind], (4, 4, 2), tokens=3, states=states, rngs=rngs))


@pytest.mark.parametrize("kind", [pytest.param("unet", marks=pytest.mark.slow), "dit"])
def test_a_network_of_numbers_gives_logits_of_tokens(kind):
    init, apply = make(kind)
    # Away from the zeros that make a fresh network constant.
    params = jax.tree.map(lambda p: p + 0.3 * jnp.sin(jnp.arange(p.size)).reshape(p.shape), init(jax.random.key(0)))
    x = jax.random.randint(jax.random.key(1), (2, 4, 4, 2), 0, 4)
    call = jax.jit(lambda x, cond: apply(params, x, jnp.array([0.3, 0.6]), cond))
    logits = call(x, jnp.array([0, 2]))
    assert logits.shape == (2, 4, 4, 2, 3) and jnp.isfinite(logits).all()
    # The wrapped network itself, with the one-hot channels of every colour one after the other.
    channels = jax.nn.one_hot(x, 4).reshape(2, 4, 4, 8)
    plain = functional(lambda rngs: INNER[kind]((4, 4, 8), out_channels=6, rngs=rngs))[1]
    plain = plain(params["network"], channels, jnp.array([0.3, 0.6]), jnp.array([0, 2]))
    np.testing.assert_allclose(logits.reshape(2, 4, 4, 6), plain, rtol=1e-4, atol=1e-4)
    assert jnp.std(logits, axis=-1).max() > 0.01
    wrong = call(x.at[1, 0, 0, 0].set(4), jnp.array([0, 2]))
    assert jnp.isnan(wrong[1]).any() and jnp.isfinite(wrong[0]).all()
    with pytest.raises(ValueError, match=r"integer tokens in \[0, 4\) with shape \(B, 4, 4, 2\), got float32"):
        call(x * 1.0, jnp.array([0, 2]))
    with pytest.raises(ValueError, match="states must be at least tokens"):
        make(kind, states=2)[0](jax.random.key(0))


def test_counting_finds_the_entropy_of_known_laws():
    rng = np.random.default_rng(0)
    rates = rng.uniform(0.1, 0.9, (6, 6, 1))
    alone = lambda count: (rng.random((count, 6, 6, 1)) < rates).astype(np.int32)
    entropy = -np.mean(rates * np.log(rates) + (1 - rates) * np.log(1 - rates))
    assert abs(pixel_models.independent(alone(4000), alone(4000), 2) - entropy) < 0.01
    # A chain along each row: a pixel keeps its left neighbour with probability 0.9.
    flips = rng.random((2000, 8, 8, 1)) < 0.1
    chain = (np.cumsum(flips, 2) % 2).astype(np.int32)
    exact = -(0.9 * np.log(0.9) + 0.1 * np.log(0.1))
    found = pixel_models.neighbours(chain[:1000], chain[1000:], 2)
    assert abs(found - exact) < 0.02
    assert pixel_models.independent(chain[:1000], chain[1000:], 2) > found + 0.15
    # Colours are as many pictures to the counts, not one picture of many levels.
    assert abs(pixel_models.neighbours(chain.reshape(1000, 8, 8, 2), chain.reshape(1000, 8, 8, 2), 2)) < np.log(2)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "levels"
    train.main(["digits", "--levels", "2", "--process", "ordinal", "--network", "unet", "--out", str(out), *SMALL,
                "--sampler.solver", "ancestral", "--sampler.grid", "uniform"])  # fmt: skip
    return out


def test_a_run_draws_black_and_white_digits(finished):
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert {*np.unique(np.asarray(Image.open(finished / "forward.png").convert("L")))} >= {0, 255}


@pytest.mark.slow
def test_its_likelihood_stands_beside_counting(finished, capsys):
    result = evaluate.main([str(finished), "--samples", "64"])
    found = result["likelihood"]
    assert 0 < found["earlier neighbours"]["nats"] < found["each pixel alone"]["nats"] < 64 * np.log(2)
    # The reverse of 64 independent coins is the worst that a bound of a trained model should be.
    assert 0 < found["model"]["nats"] < 64 * np.log(2) and found["model"]["nats_error"] < 1
    assert "nats a test picture, model" in capsys.readouterr().out


def test_levels_are_checked(tmp_path):
    for flags, message in (
        (["--levels", "1"], "must be 0 or in 2..256"),
        (["--levels", "2"], "process Gaussian takes real numbers"),
        (["--levels", "2", "--flip"], "without --flip"),
    ):
        with pytest.raises((UserError, ValueError, SystemExit), match=message if flags[1] != "1" else None):
            train.main(["digits", "--out", str(tmp_path / "x"), *flags])
