"""Texts that are given in part, from the command line: replies and summaries are trained, judged and asked for."""

import json

import numpy as np
import pytest

from experiments import evaluate, sample, train
from experiments.errors import UserError
from experiments.text.dialogues import slots
from experiments.text.dialogues.dialogue import Act, Exchange, SchemaGuided, split
from experiments.text.papers.scitldr import Paper, Papers, SciTldr
from experiments.text.tasks import Marks, Paired
from experiments.text.tokenizers import Bytes

SMALL = [
    *("--network.width", "32", "--network.depth", "1", "--network.heads", "2", "--network.dropout", "0", "--devices"),
    *("1", "--batch-size", "16", "--steps", "400", "--log-every", "40", "--optimizer.warmup", "10"),
    *("--optimizer.learning-rate", "5e-3", "--ema", "0.9"),
]
PLACES = ("Sino", "Bella Mia", "Ivy", "The Oak Room", "Noma", "Luka")


def exchange(i):
    place, city = PLACES[i % len(PLACES)], ("Oakland", "San Jose")[i // 3 % 2]
    acts = (Act(name="OFFER", slot="name", values=(place,)), Act(name="OFFER", slot="city", values=(city,)))
    return Exchange(dialogue=str(i), context=(f"food in {city}",), acts=acts, reply=f"Try {place} in {city.upper()}.")


@pytest.fixture(scope="module", autouse=True)
def small_corpora():
    """A corpus of each kind, in the place of the published ones, so that no file is needed."""
    made = split("sgd", [(i, exchange(i)) for i in range(60)], "made up")
    paper = lambda i: Paper(
        name=str(i),
        title="",
        sentences=(f"Nets are old {i}.", "We propose a net." if i % 2 else "It is cold.", "We propose a tree."),
        references=("A net is proposed.",) if i % 2 else ("A tree is proposed.",),
        extractive=1,
    )
    part = lambda a, b: tuple(map(paper, range(a, b)))
    papers = Papers(
        train=part(0, 60), validation=part(60, 70), test=part(70, 90), dropped=0, checksum="", provenance=""
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SchemaGuided, "load", lambda self, progress=None: made)
        patch.setattr(SciTldr, "load", lambda self, progress=None: papers)
        yield


def finished(recipe, folder, *flags):
    out = folder / recipe
    train.main([recipe, "--out", str(out), *SMALL, *flags])
    return out


@pytest.fixture(scope="module")
def replies(tmp_path_factory):
    sizes = ("--data.vocabulary", "300", "--data.prompt-length", "56", "--data.reply-length", "16")
    return finished("dialogue", tmp_path_factory.mktemp("runs"), *sizes, "--sampler.steps", "16")


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    small = ("--data.length", "4", "--data.topics", "2", "--data.votes", "3", "--sampler.steps", "4")
    return finished("summarize", tmp_path_factory.mktemp("runs"), *small)


def test_replies_are_judged_beside_retrieval(replies, capsys):
    sets = evaluate.main([str(replies)])["sets"]
    assert {"model", "frequent", "nearest", "nearest_filled"} <= sets.keys()
    assert sets["model"]["rouge_1"] > 0.8 and sets["model"]["slot_error"] < 0.2  # the one pattern is learned
    written = (replies / "evaluation.txt").read_text()
    assert "== best" in written and "== worst" in written and "wanted: Try " in written
    assert "-> " in (replies / "samples.txt").read_text()


def test_a_reply_holds_names_that_training_never_saw(replies, capsys):
    ask = "user: food in Berkeley\nsay: OFFER(name=Quince Bar); OFFER(city=Berkeley)"
    sample.main([str(replies), "--prompt", ask, "--count", "4"])
    said = capsys.readouterr().out.rstrip("\n").split("\n\n---\n\n")
    assert len(said) == 4 and sum("Quince Bar" in line for line in said) >= 2
    with pytest.raises(UserError, match="has places for 56; shorten it"):
        sample.main([str(replies), "--prompt", "word " * 60])
    with pytest.raises(UserError, match="pass it with --prompt"):
        sample.main([str(replies)])


def test_the_kept_sentence_is_learned(kept, capsys):
    sets = evaluate.main([str(kept)])["sets"]
    assert {"model", "lead", "cue", "trees", "oracle"} <= sets.keys()
    assert sets["lead"]["rouge_1_max"] < 0.2 and sets["oracle"]["rouge_1_max"] >= sets["model"]["rouge_1_max"] > 0.4
    assert json.loads((kept / "evaluation.json").read_text())["about"]["votes"] == 3


@pytest.mark.slow
def test_an_abstract_is_summarised(kept, capsys):
    sample.main([str(kept), "--count", "1", "--prompt", "Nets are old 3. We propose a net. We propose a tree."])
    assert capsys.readouterr().out.strip() in ("We propose a net.", "We propose a tree.")
    with pytest.raises(UserError, match="1 to 4 sentences, got 6"):
        sample.main([str(kept), "--prompt", "One. " * 6])


@pytest.mark.slow
def test_written_summaries_run(tmp_path, capsys):
    sizes = ("--data.vocabulary", "300", "--data.abstract-length", "40", "--data.summary-length", "12", "--steps", "20")
    out = finished("summarize_written", tmp_path, *sizes, "--sampler.steps", "6")
    sets = evaluate.main([str(out), "--samples", "6"])["sets"]
    assert 0 <= sets["model"]["rouge_1_max"] <= 1 and "oracle" in sets


def test_values_become_blanks_and_come_back():
    e = exchange(1)
    blank, values = slots.blanked(e)
    assert values == ("Bella Mia", "Oakland") and blank.reply == "Try \u2460 in \u2461."
    assert blank.context == ("food in \u2461",) and blank.acts[0].values == ("\u2460",)
    assert slots.filled(blank.reply, values).casefold() == e.reply.casefold()
    assert slots.cut("12 or 2, INN or inn", ("2", "Inn")) == "12 or \u2460, \u2461 or \u2461"
    assert slots.filled("\u2460 \u2463", ("a",)) == "a \u2463"
    assert slots.asked("user: x(y=z)\nsay: OFFER(name=Sino, Ivy); REQUEST(city)") == ("Sino", "Ivy")
    assert slots.blanked(Exchange(dialogue="", context=("a",), acts=(), reply="b"))[1] == ()


def test_tokens_of_tasks_are_read():
    both = Paired(text=Bytes())
    assert both.size == 258
    assert both.decode(np.array([257, *b"hi", 256, *b"ho", 257])) == "hi\n-> ho"
    assert Marks(symbols="-x").decode(np.array([0, 1, 0])) == "-x-"
    with pytest.raises(UserError, match="labels are not made of text"):
        Marks(symbols="-x").encode("abc")


def test_numbers_of_tasks_are_checked(tmp_path):
    for recipe, flag, message in (
        ("dialogue", "--data.turns", "at least 1"),
        ("summarize", "--data.votes", "at least 1"),
        ("summarize", "--data.topics", "at least 1"),
    ):
        with pytest.raises(UserError, match=message):
            train.main([recipe, "--out", str(tmp_path / "x"), flag, "0"])
    with pytest.raises(UserError, match="takes real numbers"):
        train.main(["summarize", "--out", str(tmp_path / "x"), "--network", "mlp", "--data.topics", "2"])
