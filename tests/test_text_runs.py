"""A run on text from the command line: train, complete and fill a prompt, judge beside n-grams, and mistakes."""

import dataclasses
import json
from collections import Counter

import numpy as np
import pytest

from benchmarks import text as text_benchmark
from experiments import evaluate, sample, train
from experiments.data import batches
from experiments.errors import UserError
from experiments.feed import feed
from experiments.info import DataInfo
from experiments.loading import load
from experiments.networks import Transformer
from experiments.recipe import Sampler
from experiments.recipes import text_embed
from experiments.text import Characters, TextFile
from experiments.text.bits import bits_of, from_bits, to_bits
from experiments.text.prompt import parse
from experiments.text.show import MASK, shown
from jaxdiff import grids, solvers

pytestmark = pytest.mark.usefixtures("compile_quickly")

INFO = DataInfo(shape=(12,), tokens=4, tokenizer=Characters(symbols="abc "))
FLAGS = [
    *("--network.width", "32", "--network.depth", "1", "--network.heads", "2", "--data.length", "16", "--devices", "1"),
    *("--batch-size", "32", "--steps", "60", "--log-every", "20", "--optimizer.warmup", "10", "--sampler.steps", "8"),
]


@pytest.fixture(scope="module")
def text_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "verse.txt"
    rng = np.random.default_rng(0)
    path.write_text(" ".join(rng.choice(["the sea", "a ship", "wind", "and salt"], 2000)))
    return str(path)


@pytest.fixture(scope="module")
def finished(text_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "verse"
    train.main(["text_file", "--data.path", text_file, "--out", str(out), *FLAGS])
    return out


def test_a_run_leaves_texts_to_read(finished):
    for name in ("samples.txt", "trajectory.txt", "forward.txt"):
        assert (finished / name).read_text().strip()
    path = (finished / "trajectory.txt").read_text().split("\n\n")
    assert path[0].count(MASK) == 16 and MASK not in path[-1]
    assert "samples" in (finished / "report.html").read_text().lower()
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < rows[0]["loss"]


@pytest.mark.parametrize("solver", ["ancestral", "firsthitting"])
def test_what_a_prompt_says_stays(finished, solver, capsys):
    sample.main([str(finished), "--prompt", "the ___ a", "--gap", "4", "--count", "3", "--solver", solver])
    out = capsys.readouterr().out
    texts = out.rstrip("\n").split("\n\n---\n\n")
    assert len(texts) == 3
    assert all(len(t) == 10 and t.startswith("the ") and t.endswith(" a") and MASK not in t for t in texts)


@pytest.mark.slow
def test_the_benchmark_of_text_measures_every_solver(finished, tmp_path):
    result = text_benchmark.measure([str(finished)], [2], samples=4, repeats=1, windows=4, draws=4)
    assert {row["solver"] for row in result["points"]} == {*text_benchmark.MASKED}
    assert all(row["nfe"] == 2 and row["tokens_per_second"] > 0 for row in result["points"])
    lines = text_benchmark.table(json.loads(json.dumps(result))).splitlines()
    assert len([line for line in lines if line.startswith("| verse")]) == 1 + len(result["points"])
    text_benchmark.plot(result, tmp_path / "text.png")
    assert (tmp_path / "text.png").stat().st_size > 1000


@pytest.mark.slow
def test_bits_of_characters_are_learned_by_gaussian_diffusion(text_file, tmp_path):
    recipe = dataclasses.replace(
        text_embed.recipe(),
        data=TextFile(path=text_file, length=16, bits=True),
        network=Transformer(width=32, depth=1, heads=2),
        batch_size=32,
        steps=150,
        log_every=50,
        ema=0.9,
        sampler=Sampler(solver=solvers.Ancestral(), grid=grids.uniform, steps=24),
    )
    texts = recipe.data.load()
    info, examples = feed(recipe, texts)
    assert info.shape == (16, bits_of(texts.tokenizer.size)) and info.tokens == 0
    result = train.run(recipe, batches(examples, batch_size=32, seed=0), tmp_path / "bits", info=info)
    assert result.rows[-1]["loss"] < 0.7 * result.rows[0]["loss"]
    drawn, _ = result.model.draw(result.model.network(result.state.ema), None, 64, sampler=recipe.sampler)
    said = "".join(shown(info, row) for row in drawn)
    common = Counter(texts.tokenizer.decode(texts.train))
    # The letters are those of the text, and about as frequent: a shuffled alphabet would share 60 % at most.
    shared = sum(min(Counter(said)[c] / len(said), n / common.total()) for c, n in common.items())
    assert shared > 0.8
    assert (tmp_path / "bits" / "samples.txt").read_text().strip()


@pytest.mark.slow
def test_a_network_of_blocks_is_sampled_by_blocks_with_its_cache(text_file, tmp_path, capsys):
    out = tmp_path / "blocks"
    train.main(["text_file", "--data.path", text_file, "--out", str(out), *FLAGS, "--network.block", "4"])
    capsys.readouterr()
    for flags, calls in ((["--steps", "8"], 8), (["--steps", "8", "--solver", "firsthitting"], 16)):
        sample.main([str(out), "--count", "2", "--prompt", "the sea", *flags])
        said = capsys.readouterr()
        assert all(t.startswith("the sea") and len(t) == 16 for t in said.out.rstrip("\n").split("\n\n---\n\n"))
        assert f"{calls} network evaluations" in said.err
    sets = evaluate.main([str(out), "--samples", "8", "--windows", "20", "--draws", "8"])["sets"]
    assert 0 < sets["model"]["bits"] < 6
    with pytest.raises(UserError, match="a multiple of 4; got 6"):
        sample.main([str(out), "--steps", "6"])
    with pytest.raises(UserError, match="have 4 tokens, and so must those of the solver"):
        sample.main([str(out), "--solver", "blockdiffusion", "--solver.block", "8"])


def test_blocks_complete_a_prompt(finished, capsys):
    sample.main([str(finished), "--prompt", "the", "--count", "2", "--solver", "blockdiffusion", "--steps", "16"])
    assert all(t.startswith("the") and len(t) == 16 for t in capsys.readouterr().out.rstrip("\n").split("\n\n---\n\n"))


def test_evaluation_stands_beside_ngrams(finished, capsys):
    result = evaluate.main([str(finished), "--samples", "8", "--windows", "40", "--draws", "16"])
    sets = result["sets"]
    assert {"model", "held-out text", "1-gram", "6-gram"} <= sets.keys()
    assert sets["6-gram"]["bits"] < sets["1-gram"]["bits"]
    assert 0 < sets["model"]["bits"] < 2 * np.log2(26)
    assert sets["held-out text"]["words"] == 1
    assert "3-gram" in capsys.readouterr().out


def test_the_bound_does_not_depend_on_the_batch(finished):
    from experiments.text.evaluation import bound

    model, params, _ = load(finished)
    rows = np.random.default_rng(0).integers(0, model.info.tokens, (10, 16)).astype(np.int32)
    whole, parts = (bound(model, params, rows, draws=8, seed=0, batch=batch)[0] for batch in (10, 4))
    np.testing.assert_allclose(whole, parts, rtol=1e-5)


def test_prompts_in_tokens():
    prompt = parse("ab___c", INFO, 3)
    assert prompt.mask.tolist() == [True] * 2 + [False] * 3 + [True] + [False] * 6
    assert prompt.value[prompt.mask].tolist() == [0, 1, 2] and prompt.shown == 6
    assert parse("ab", INFO, 3).shown == 12


@pytest.mark.parametrize(
    ("text", "gap", "message"),
    [
        ("a" * 13, 3, "takes 13 tokens and the run's window has 12"),
        ("a" * 12, 3, "nothing is left to write"),
        ("a___", 12, "smaller --gap"),
        ("a___", 0, "--gap must be at least 1"),
        ("axb", 3, "x"),
    ],
)
def test_prompts_that_do_not_fit(text, gap, message):
    with pytest.raises(UserError, match=message):
        parse(text, INFO, gap)


def test_flags_of_pictures_are_refused(finished):
    with pytest.raises(UserError, match="use --prompt"):
        sample.main([str(finished), "--classes", "3"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--network", "unet"], "--network transformer"),
        (["--process.schedule", "cosine"], "alpha \\+ sigma must be 1"),
        (["--data.length", "100000"], "needs as many in the text"),
    ],
)
def test_objects_that_do_not_go_together(text_file, tmp_path, flags, message):
    keep = FLAGS[6:] if flags[0] == "--network" else FLAGS
    with pytest.raises(UserError, match=message):
        train.main(["text_file", "--data.path", text_file, "--out", str(tmp_path / "run"), *keep, *flags])


def test_an_empty_text(tmp_path):
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(UserError, match="empty"):
        train.main(["text_file", "--data.path", str(tmp_path / "empty.txt"), "--out", str(tmp_path / "run"), *FLAGS])


def test_noisy_tokens_are_shown_as_blocks():
    assert shown(INFO, np.array([0, 4, 4, 2])) == f"a{MASK}{MASK}c"


def test_bits_come_back():
    tokens = np.arange(65, dtype=np.int32).reshape(5, 13)
    bits = to_bits(tokens, 65)
    assert bits.shape == (5, 13, bits_of(65)) == (5, 13, 7) and set(np.unique(bits)) == {-1.0, 1.0}
    np.testing.assert_array_equal(from_bits(0.1 * bits), tokens)
