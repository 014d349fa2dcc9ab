"""Figures of text: by hand on small texts, against brute force on random ones, and ordered as quality is."""

import math
import random

import numpy as np
import pytest

from experiments.errors import UserError
from experiments.text import copies, metrics
from experiments.text.ngrams import NGrams


def random_text(length, seed, symbols="ab "):
    return "".join(random.Random(seed).choices(symbols, k=length))


class TestVariety:
    def test_entropy_by_hand(self):
        assert metrics.entropy(["abcd", "aabb"]) == 1.5
        assert metrics.entropy(["aaaa"]) == 0
        assert metrics.entropy([np.array([7, 7, 2]).tolist()]) == pytest.approx(math.log2(3) - 2 / 3)
        assert math.isnan(metrics.entropy([]))

    def test_entropy_sees_repetition_within_a_passage(self):
        assert metrics.entropy(["aaaa", "bbbb"]) == 0 < metrics.entropy(["abab", "abab"])

    def test_distinct_by_hand(self):
        assert metrics.distinct(["abab"], 1) == 2 / 4
        assert metrics.distinct(["abab"], 2) == 2 / 3
        assert metrics.distinct(["abab", "abab"], 2) == 2 / 6
        assert metrics.distinct([["a", "b"], ["c"]], 2) == 1  # no pair across passages
        assert math.isnan(metrics.distinct(["abc"], 4))


class TestWords:
    def test_words(self):
        assert metrics.words("Don't  STOP, 3 naïve_ends--o\u2019er\n'tis") == [
            "don't",
            "stop",
            "naïve",
            "ends",
            "o\u2019er",
            "tis",
        ]

    def test_share_of_valid_words_without_cut_ones(self):
        seen = "The cat sat. On it!"
        assert metrics.valid_words(["xx CAT, dog sat yy"], seen) == pytest.approx(2 / 3)
        assert metrics.valid_words([" cat "], seen) == 1
        assert metrics.valid_words([" ca "], seen) == 0  # a piece of a word is no word
        assert math.isnan(metrics.valid_words(["cat"], seen))


class TestCopies:
    @pytest.mark.parametrize("length", [1, 2, 3, 5, 7, 8, 13, 20, 31])
    def test_share_equals_brute_force(self, length):
        seen = random_text(4000, 0)
        passages = [random_text(60, 1), seen[100:160], random_text(9, 2), seen[5:25] + random_text(20, 3), ""]
        stretches = [p[i : i + length] for p in passages for i in range(len(p) - length + 1)]
        assert metrics.copied(passages, seen, length) == np.mean([stretch in seen for stretch in stretches])

    @pytest.mark.parametrize("seed", range(8))
    def test_longest_equals_brute_force(self, seed):
        seen, passages = random_text(3000, seed), [random_text(40, 100 + seed + i) for i in range(3)]
        best = max((p[i:j] for p in passages for i in range(40) for j in range(i, 41) if p[i:j] in seen), key=len)
        found = metrics.longest_copy(passages, seen)
        assert len(found) == len(best)
        assert found in seen and any(found in passage for passage in passages)

    def test_edges(self):
        assert metrics.longest_copy(["xyz"], "abc") == ""
        assert metrics.longest_copy([], "abc") == ""
        assert metrics.longest_copy(["abcd"], "abc") == "abc"
        assert metrics.longest_copy(["🙂é"], "é🙂é") == "🙂é"
        assert metrics.longest_copy(["ab"], "") == ""
        assert metrics.copied(["abcd"], "abc", 3) == 0.5
        assert metrics.copied(["abcd"], "", 3) == 0
        assert math.isnan(metrics.copied(["ab"], "abc", 3))

    def test_copies_do_not_cross_passages(self):
        assert metrics.copied(["abc", "def"], "abcdef", 3) == 1
        assert metrics.longest_copy(["abc", "def"], "abcdef") == "abc"

    def test_texts_that_defeat_plain_polynomial_hashes(self):
        """Thue-Morse words collide for any base modulo 2^64 without mixing."""
        word, other = "a", "b"
        for _ in range(11):
            word, other = word + other, other + word
        codes = [copies._codes(text) for text in (word, other)]
        base, plain = np.uint64(31), []
        for text in codes:
            value = np.uint64(0)
            with np.errstate(over="ignore"):
                for code in text:
                    value = value * base + np.uint64(code)
            plain.append(value)
        assert plain[0] == plain[1]
        assert copies._hashes(codes[0], 2048) != copies._hashes(codes[1], 2048)


class TestRouge:
    def test_by_hand(self):
        found = metrics.rouge(["the cat sat"], [["the cat ran off"]])
        precision, recall = 2 / 3, 2 / 4
        assert found["rouge_1_max"] == found["rouge_1_mean"] == pytest.approx(2 / (1 / precision + 1 / recall))
        assert found["rouge_2_max"] == pytest.approx(2 / (2 / 1 + 3 / 1))
        assert metrics.rouge(["b a"], [["a b"]])["rouge_l_max"] == pytest.approx(0.5)
        assert metrics.rouge(["b a"], [["a b"]])["rouge_1_max"] == 1

    def test_several_references_and_predictions(self):
        found = metrics.rouge(["a b", "c"], [["a b", "x y"], ["c"]])
        assert (found["rouge_1_max"], found["rouge_1_mean"]) == (1, 0.75)

    def test_stems(self):
        assert metrics.rouge(["running"], [["runs"]])["rouge_1_max"] == 0
        assert metrics.rouge(["running"], [["runs"]], stem=True)["rouge_1_max"] == 1

    @pytest.mark.parametrize(("predictions", "references"), [([], []), (["a"], []), (["a"], [[]]), (["a"], ["text"])])
    def test_wrong_inputs(self, predictions, references):
        with pytest.raises(UserError, match="ROUGE needs"):
            metrics.rouge(predictions, references)


def test_better_models_look_better():
    """Words of n-gram samples become real with the order, and only what was copied counts as copied."""
    words = ["the", "cats", "sat", "upon", "seven", "mats", "whilst", "dogs", "slept"]
    chosen = random.Random(0)
    seen = " ".join(chosen.choice(words) for _ in range(20_000))
    symbols = sorted(set(seen))
    tokens = np.array([symbols.index(c) for c in seen])
    model = NGrams.fit(tokens, len(symbols), 5)
    found = {}
    for order in (1, 3, 5):
        rows = model.lower(order).sample(np.random.default_rng(order), 20, 200)
        found[order] = metrics.describe(["".join(symbols[token] for token in row) for row in rows], seen)
    assert found[1]["words"] < 0.2 < found[3]["words"] < found[5]["words"]
    assert found[5]["words"] > 0.95
    assert found[1]["copied"] < found[5]["copied"] < 1
    copy = metrics.describe([seen[1000:1200]], seen)
    assert (copy["copied"], copy["longest_copy"], copy["words"]) == (1, 200, 1)
    assert set(copy) == {"entropy", *(f"distinct_{n}" for n in (1, 2, 3, 4)), "words", "copied", "longest_copy"}
