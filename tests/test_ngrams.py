"""N-grams: equal to NLTK's Witten-Bell, proper distributions, contexts that begin anew, and samples of the very law."""

import itertools
import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow_datasets")

from experiments.errors import UserError
from experiments.text import TinyShakespeare
from experiments.text.ngrams import NGrams

RAW = Path(os.environ.get("JAXDIFF_RAW_DATA", Path(__file__).parents[2] / "shared" / "data")) / "tinyshakespeare"
SIZE = 6


def make_stream(count, size=SIZE, seed=0):
    """Tokens with structure: each is likely to be the one before, plus one."""
    generator = np.random.default_rng(seed)
    steps = np.where(generator.random(count) < 0.7, 1, generator.integers(size, size=count))
    return np.cumsum(steps) % size


def nltk_model(stream, order, size, smoothed):
    lm = pytest.importorskip("nltk.lm")
    from nltk.util import everygrams

    symbols = [str(token) for token in stream]
    model = lm.WittenBellInterpolated(order)
    model.fit([list(everygrams(symbols, max_len=order))], vocabulary_text=symbols)
    if smoothed:  # NLTK stops at the frequencies of tokens; we smooth them like any other order
        kinds, total = len(set(symbols)), len(symbols)
        model.estimator.unigram_score = lambda word: (symbols.count(word) + kinds / size) / (total + kinds)
    return model


def nltk_bits(model, tokens, order):
    symbols = [str(token) for token in tokens]
    return np.array([-model.logscore(s, tuple(symbols[max(0, i - order + 1) : i])) for i, s in enumerate(symbols)])


@pytest.mark.parametrize("order", [1, 2, 3, 4, 6])
def test_equals_nltk(order):
    train, test = make_stream(300), make_stream(120, seed=1)
    bits = NGrams.fit(train, SIZE, order).bits(test)
    np.testing.assert_allclose(bits, nltk_bits(nltk_model(train, order, SIZE, True), test, order), rtol=0, atol=1e-9)
    raw = nltk_bits(nltk_model(train, order, SIZE, False), test, order)
    assert np.abs(bits - raw).max() > 1e-6  # the comparison sees a difference in the last order alone


@pytest.mark.parametrize("size", [SIZE, 9, 50_000])
def test_probabilities_sum_to_one(size):
    """Also where the vocabulary has tokens that never came, after contexts that never came."""
    model = NGrams.fit(make_stream(200), size, 4)
    for context in ([], [0], [5, 0], [0, 1, 2], [3, 3, 3], [size - 1, 0, 1], [0, size - 1, size - 1], [9 % size] * 7):
        p = model.distribution(np.array(context, int))
        assert p.min() > 0
        assert abs(p.sum() - 1) < 1e-11


def test_a_context_seen_only_at_the_end_says_nothing():
    model = NGrams.fit(np.array([0, 1, 0, 1, 2]), 3, 2)
    np.testing.assert_allclose(model.distribution(np.array([2])), model.lower(1).distribution(np.array([], int)))
    assert not np.allclose(model.distribution(np.array([1])), model.distribution(np.array([2])))


def test_context_begins_anew_in_each_row():
    model, test = NGrams.fit(make_stream(500), SIZE, 4), make_stream(64, seed=2)
    alone = np.concatenate([model.bits(row) for row in test.reshape(8, 8)])
    np.testing.assert_array_equal(model.bits(test.reshape(8, 8)).ravel(), alone)
    read_on = model.bits(test)
    inside = np.arange(64) % 8 >= 3
    np.testing.assert_array_equal(alone[inside], read_on[inside])
    assert (alone[~inside] != read_on[~inside])[3:].all()


@pytest.mark.parametrize("count", [64, 61, 5])
def test_mean_with_and_without_windows(count):
    model, test = NGrams.fit(make_stream(500), SIZE, 3), make_stream(count, seed=3)
    assert model.bits_per_token(test) == pytest.approx(model.bits(test).mean())
    rows = [test[i : i + 8] for i in range(0, count, 8)]
    expected = sum(model.bits(row).sum() for row in rows) / count
    assert model.bits_per_token(test, 8) == pytest.approx(expected)
    assert model.bits_per_token(test, 1) == pytest.approx(model.lower(1).bits_per_token(test))
    assert model.bits_per_token(test, 1000) == pytest.approx(model.bits_per_token(test))


def test_lower_is_what_fit_gives():
    stream, test = make_stream(400), make_stream(50, seed=4)
    high = NGrams.fit(stream, SIZE, 5)
    for order in range(1, 6):
        np.testing.assert_array_equal(high.lower(order).bits(test), NGrams.fit(stream, SIZE, order).bits(test))


def test_samples_follow_the_law():
    """All 64 texts of three tokens, chi-squared against their exact probabilities; another order's law is refused."""
    from scipy import stats

    count, size = 40_000, 4
    model = NGrams.fit(make_stream(60, size), size, 3)
    rows = model.sample(np.random.default_rng(0), count, 3)
    assert (rows.shape, rows.dtype) == ((count, 3), np.int32)
    seen = np.bincount(rows @ [16, 4, 1], minlength=64)
    texts = np.array(list(itertools.product(range(size), repeat=3)))

    def p_value(other):
        law = np.exp2(-other.bits(texts).sum(-1))
        assert abs(law.sum() - 1) < 1e-12
        return stats.chisquare(seen, count * law).pvalue

    assert p_value(model) > 1e-3
    assert p_value(model.lower(2)) < 1e-9


def test_samples_are_functions_of_the_generator():
    model = NGrams.fit(make_stream(200), SIZE, 4)
    first, second, third = (model.sample(np.random.default_rng(seed), 3, 20) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, third)


def test_large_vocabularies_do_not_overflow():
    stream = np.random.default_rng(0).integers(2**31, size=300)
    model = NGrams.fit(np.tile(stream, 2), 2**31, 6)
    assert model.bits(stream)[10:].max() < 2


@pytest.mark.parametrize(
    ("tokens", "order", "says"),
    [
        ([0, 1, 2], 0, "at least one token"),
        ([], 1, "at least 1 tokens"),
        ([0, 1], 3, "at least 3 tokens"),
        ([0, 6], 1, "0..5"),
        ([-1, 0], 1, "0..5"),
        ([0.0, 1.0], 1, "float64"),
        ([[0, 1]], 1, "stream"),
    ],
)
def test_wrong_inputs(tokens, order, says):
    with pytest.raises(UserError, match=says):
        NGrams.fit(np.array(tokens, None if tokens else int), SIZE, order)


def test_wrong_questions():
    model = NGrams.fit(make_stream(20), SIZE, 2)
    for call in (lambda: model.bits(np.array([6])), lambda: model.lower(3), lambda: model.bits_per_token([1, 2], 0)):
        with pytest.raises(UserError):
            call()


def test_shakespeare_in_seconds(tmp_path, record_property):
    """More context helps up to five characters, and to begin anew every 256 costs a little."""
    if not (RAW / "input.txt").is_file():
        pytest.skip("no raw files of tinyshakespeare: set JAXDIFF_RAW_DATA to the folder that holds tinyshakespeare/")
    texts = TinyShakespeare(raw_dir=str(RAW), data_dir=str(tmp_path)).load()
    model = NGrams.fit(texts.train, texts.tokenizer.size, 5)
    held_out = np.concatenate([texts.validation, texts.test])
    bits = [model.lower(order).bits_per_token(held_out) for order in range(1, 6)]
    assert bits == sorted(bits, reverse=True)
    reset = model.bits_per_token(held_out, 256)
    assert bits[4] < reset < bits[4] + 0.05
    record_property("bits", bits)
