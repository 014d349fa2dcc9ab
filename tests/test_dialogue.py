"""Dialogues: exchanges as published, windows of a prompt and a target, slot error, and replies that are retrieved."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("rouge_score")
pytest.importorskip("yaml")

from experiments.data import Batches
from experiments.errors import UserError
from experiments.text import Bytes, Characters
from experiments.text.dialogues import dialogue, retrieval
from experiments.text.dialogues.chatterbot import ChatterBot
from experiments.text.dialogues.dialogue import Act, Exchange, SchemaGuided, holds, prompt, slot_error, split
from experiments.text.pairs import pairs
from experiments.text.papers import summaries
from experiments.text.papers.scitldr import Paper

RAW = Path(os.environ.get("JAXDIFF_RAW_DATA", Path(__file__).parents[2] / "shared" / "data"))


def raw_folder(name, file):
    if not (RAW / name / file).is_file():
        pytest.skip(f"no raw files of {name}: set JAXDIFF_RAW_DATA to the folder that holds {name}/")
    return str(RAW / name)


@pytest.fixture(scope="module")
def sgd():
    return SchemaGuided(raw_dir=raw_folder("sgd-dialogue", "dev_dialogues_005.json.gz")).load()


@pytest.fixture(scope="module")
def chatterbot():
    return ChatterBot(raw_dir=raw_folder("chatterbot-corpus", "english/ai.yml")).load()


def parts(data):
    return data.train, data.validation, data.test


def offer(city, price, *, name="d", said="hello"):
    acts = (Act(name="OFFER", slot="city", values=(city,)), Act(name="OFFER", slot="price", values=(price,)))
    return Exchange(dialogue=name, context=(said,), acts=acts, reply=f"A flight to {city} is {price}.")


def ask(slot, *, said="hello"):
    acts = (Act(name="REQUEST", slot=slot, values=()),)
    return Exchange(dialogue="a", context=(said,), acts=acts, reply=f"Which {slot}?")


class TestSchemaGuided:
    def test_it_is_split_by_dialogue(self, sgd):
        names = [{e.dialogue for e in part} for part in parts(sgd)]
        assert sum(map(len, names)) == len(set.union(*names)) == 375
        assert [len(n) for n in names] == [301, 37, 37]
        assert sum(map(len, parts(sgd))) == 2209
        assert SchemaGuided(raw_dir=str(RAW / "sgd-dialogue")).load().checksum == sgd.checksum

    def test_what_is_required_stands_in_the_replies_that_were_given(self, sgd):
        for part in parts(sgd):
            replies = [e.reply for e in part]
            assert sum(len(e.required) for e in part) > 100
            assert slot_error(replies, part) == 0
            # The replies to other turns do not hold it.
            assert slot_error(replies[1:] + replies[:1], part) > 0.5

    def test_contexts_begin_and_end_with_the_user(self, sgd):
        assert all(len(e.context) % 2 == 1 and e.acts and e.reply for part in parts(sgd) for e in part)
        assert all(
            turn in e.context
            for a, e in zip(sgd.test, sgd.test[1:], strict=False)
            if a.dialogue == e.dialogue
            for turn in (*a.context, a.reply)
        )

    def test_missing_and_changed_files_are_named(self, tmp_path, sgd):
        with pytest.raises(UserError, match=r"lacks dev/dialogues_005\.json"):
            SchemaGuided(raw_dir=str(tmp_path)).load()
        for file in (RAW / "sgd-dialogue").glob("*.gz"):
            part, rest = file.stem.split("_", 1)
            (tmp_path / part).mkdir(exist_ok=True)
            (tmp_path / part / rest).write_bytes(gzip.decompress(file.read_bytes()))
        assert SchemaGuided(raw_dir=str(tmp_path)).load().checksum == sgd.checksum
        (tmp_path / "test" / "dialogues_011.json").write_text("[]")
        with pytest.raises(UserError, match=r"test/dialogues_011\.json in .* another sha256"):
            SchemaGuided(raw_dir=str(tmp_path)).load()

    def test_baselines(self, sgd):
        found = retrieval.baselines(sgd)
        assert found["frequent"]["rouge_1"] < found["nearest"]["rouge_1"] < found["nearest_filled"]["rouge_1"] < 1
        assert found["nearest_filled"]["slot_error"] < 0.1 < 0.5 < found["nearest"]["slot_error"]
        assert found["frequent"]["slot_error"] == 1


class TestChatterBot:
    def test_no_question_of_the_training_part_is_asked_again(self, chatterbot):
        first = [{e.context[0].casefold() for e in part} for part in parts(chatterbot)]
        assert not (first[0] & first[1] or first[0] & first[2] or first[1] & first[2])
        assert len({e.dialogue for part in parts(chatterbot) for e in part}) == 2026
        assert all(e.reply and not e.acts and all(e.context) for part in parts(chatterbot) for e in part)

    def test_nothing_is_required(self, chatterbot):
        found = retrieval.baselines(chatterbot)
        assert set(found) == {"frequent", "nearest"}
        assert all(np.isnan(row["slot_error"]) and 0 < row["rouge_1"] < 1 for row in found.values())


class TestExchanges:
    def test_prompt(self):
        acts = (
            Act(name="OFFER", slot="city", values=("Rome", "Bonn")),
            Act(name="GOODBYE", slot="", values=()),
            Act(name="REQUEST", slot="day", values=()),
        )
        e = Exchange(dialogue="d", context=("a", "b", "c"), acts=acts, reply="r")
        say = "say: OFFER(city=Rome, Bonn); GOODBYE; REQUEST(day)"
        assert prompt(e) == f"user: a\nsystem: b\nuser: c\n{say}"
        assert prompt(e, turns=2) == f"system: b\nuser: c\n{say}"
        assert prompt(e, turns=1, acts=False) == "user: c"
        assert prompt(e, turns=0) == say

    def test_required_values_and_slot_error(self):
        acts = tuple(
            Act(name="INFORM", slot=slot, values=values)
            for slot, values in [
                ("n", ("2",)),
                ("city", ("Rome",)),
                ("free", ("True",)),
                ("intent", ("Buy",)),
                ("", ("x",)),
            ]
        )
        e = Exchange(dialogue="d", context=("a",), acts=acts, reply="")
        assert e.required == ("2", "Rome")
        assert slot_error(["2 in rome"], [e]) == 0
        assert slot_error(["12 in Rome."], [e]) == 0.5
        assert slot_error(["", "2"], [e, e]) == 0.75
        assert np.isnan(slot_error(["hm"], [ask("city")]))
        with pytest.raises(UserError, match="a reply an exchange"):
            slot_error(["a"], [e, e])

    def test_values_are_whole_words(self):
        assert holds("It costs $5.20.", "$5.20") and holds("A (b)", "(B)")
        assert not holds("It costs $5.20", "$5.2") and not holds("Romes", "Rome")

    def test_split_by_groups(self):
        exchanges = [(i // 3, ask("x", said=str(i))) for i in range(60)]
        data = split("d", exchanges, "")
        groups = [{int(e.context[0]) // 3 for e in part} for part in parts(data)]
        assert [len(g) for g in groups] == [16, 2, 2] and len(set.union(*groups)) == 20
        assert split("d", exchanges, "").checksum == data.checksum
        with pytest.raises(UserError, match="ten dialogues"):
            split("d", exchanges[:12], "")


class TestPairs:
    def make(self, **options):
        options = {"prompt_length": 6, "target_length": 5, "keep": "end"} | options
        return pairs(["ab", "abcdefgh"], ["xyz", "uvwxyz"], Bytes(), **options)

    def test_places(self):
        made = self.make()
        assert (made.size, made.separator, made.end) == (258, 256, 257)
        assert made.x0.dtype == np.int32 and made.x0.shape == (2, 12)
        e, s = made.end, made.separator
        assert made.x0[0].tolist() == [e, e, e, e, *b"ab", s, *b"xyz", e, e]
        assert made.x0[1].tolist() == [*b"cdefgh", s, *b"uvwxy"]
        assert self.make(keep="beginning").x0[1, :6].tolist() == [*b"abcdef"]
        assert made.observed.tolist() == [[True] * 7 + [False] * 5] * 2
        assert (made.cut_prompts, made.cut_targets) == (1, 1)
        assert self.make(prompt_length=8).cut_prompts == self.make(target_length=6).cut_targets == 0

    def test_targets_come_back(self):
        made = self.make()
        assert made.targets(made.x0) == ["xyz", "uvwxy"]
        sampled = made.x0.copy()
        sampled[0, 7:] = [ord("p"), made.size, made.separator, ord("q"), made.end]  # a mask and a separator left over
        sampled[1, 7:] = made.end
        assert made.targets(sampled) == ["pq", ""]
        with pytest.raises(UserError, match="whole windows"):
            made.targets(made.x0[:, :5])

    def test_errors(self):
        with pytest.raises(UserError, match="lengths 0"):
            self.make(prompt_length=0)
        with pytest.raises(UserError, match="2 prompts, 1 targets"):
            pairs(["a", "b"], ["c"], Bytes(), prompt_length=1, target_length=1, keep="end")
        with pytest.raises(UserError, match="lacks 'z'"):
            pairs(["a"], ["z"], Characters.of("ab"), prompt_length=1, target_length=1, keep="end")

    def test_they_make_batches(self):
        made = self.make()
        batch = Batches(split=made, batch_size=4, seed=0)[0]
        np.testing.assert_array_equal(batch["x0"], made.x0[[made.x0[:, 0].tolist().index(r[0]) for r in batch["x0"]]])
        assert batch["observed"].shape == (4, 12)

    def test_abstracts_and_their_first_reference(self):
        paper = lambda *sentences, references: Paper(
            name="", title="", sentences=sentences, references=references, extractive=0
        )
        papers = [paper("A b.", "C.", references=("t", "u")), paper("D.", references=("v",))]
        made = summaries.abstractive(papers, Bytes(), abstract_length=6, summary_length=2)
        assert bytes(made.x0[0, :6].tolist()) == b"A b. C" and made.cut_prompts == 1
        assert made.targets(made.x0) == ["t", "v"]


class TestRetrieval:
    def test_frequent_and_nearest(self):
        train = [ask("city", said="book a flight"), ask("city", said="fly"), ask("day", said="book a table for two")]
        test = [ask("city", said="a table please"), ask("city", said="one flight")]
        assert retrieval.frequent(train) == "Which city?"
        assert retrieval.nearest(train, test) == ["Which day?", "Which city?"]
        assert retrieval.nearest(train, train) == [e.reply for e in train]

    def test_values_are_exchanged_all_at_once(self):
        train = [offer("Rome", "$5", said="fly"), ask("city", said="fly away")]
        test = [offer("Bonn", "$7", said="fly away"), offer("$5", "Rome", said="fly"), ask("city", said="fly")]
        filled = retrieval.nearest_filled(train, test)
        assert filled == ["A flight to Bonn is $7.", "A flight to $5 is Rome.", "Which city?"]
        assert retrieval.evaluate(filled, test)["slot_error"] == 0
        assert retrieval.evaluate(retrieval.nearest(train, test), test)["slot_error"] == 0.5
        # No training exchange has these acts: the one that shares most is taken.
        third = Act(name="INFORM", slot="day", values=("Monday",))
        more = Exchange(dialogue="m", context=("fly",), acts=(*offer("Bonn", "$7").acts, third), reply="")
        assert retrieval.nearest_filled(train, [more]) == ["A flight to Bonn is $7."]

    def test_the_reply_itself_is_perfect(self):
        test = [offer("Rome", "$5"), ask("day")]
        found = retrieval.evaluate([e.reply for e in test], test)
        assert found == {"rouge_1": 1.0, "rouge_2": 1.0, "rouge_l": 1.0, "slot_error": 0.0}
        assert dialogue.slot_error(["", ""], test) == 1
