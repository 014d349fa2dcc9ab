"""Text: sources and their splits, tokenizers that lose nothing, windows as pure functions of seed and step."""

import functools
import gzip
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow_datasets")
pytest.importorskip("grain")

from experiments.data import Batches, batches
from experiments.errors import UserError
from experiments.text import (
    BPE,
    Bytes,
    Characters,
    Text8,
    TextFile,
    TinyShakespeare,
    Windows,
    corpora,
    from_json,
    prepared,
    texts,
)
from experiments.text.windows import spread

ROOT = Path(__file__).parents[1]
RAW = Path(os.environ.get("JAXDIFF_RAW_DATA", ROOT.parent / "shared" / "data"))
STRANGE = "naïve façade, 日本語 🙂\r\n\ttab\x00 end"


def raw_folder(name, file):
    if not (RAW / name / file).is_file():
        pytest.skip(f"no raw files of {name}: set JAXDIFF_RAW_DATA to the folder that holds {name}/")
    return RAW / name


def make_text(words=2000):
    chosen = np.random.default_rng(0).integers(40, size=words)
    return " ".join(
        ["the", "and", "of", "to", "in", "that", "is", "was", "he", "for"][i % 10] + "abcd"[i // 10] for i in chosen
    )


class TestTokenizers:
    @pytest.mark.parametrize("make", [Characters.of, lambda text: Bytes(), lambda text: BPE.learn(text * 3, 300)])
    def test_nothing_is_lost(self, make):
        tokenizer = make(STRANGE)
        tokens = tokenizer.encode(STRANGE)
        assert (tokens.dtype, tokens.ndim) == (np.int32, 1)
        assert tokens.min() >= 0 and tokens.max() < tokenizer.size
        assert tokenizer.decode(tokens) == STRANGE
        assert tokenizer.decode(tokens.tolist()) == STRANGE
        assert tokenizer.encode("").shape == (0,)
        assert tokenizer.decode([]) == ""

    @pytest.mark.parametrize("make", [Characters.of, lambda text: Bytes(), lambda text: BPE.learn(text * 3, 300)])
    def test_a_run_directory_holds_it(self, make):
        tokenizer = make(STRANGE)
        again = from_json(json.loads(json.dumps(tokenizer.to_json())))
        assert again == tokenizer
        np.testing.assert_array_equal(again.encode(STRANGE), tokenizer.encode(STRANGE))

    def test_characters_are_in_order_whatever_the_text(self):
        assert Characters.of("banana").symbols == "abn"
        assert Characters.of("nab") == Characters.of("banana") != Characters.of("bandana")
        assert Characters(symbols="zya").encode("ayz").tolist() == [2, 1, 0]

    def test_bytes_hold_any_text_and_decode_any_bytes(self):
        assert Bytes().encode("é").tolist() == [0xC3, 0xA9]
        assert Bytes().decode([0xC3, 65]) == "\ufffdA"

    def test_bpe_shortens_and_holds_what_it_never_saw(self):
        text = make_text()
        tokenizer = BPE.learn(text, 320)
        assert tokenizer.size <= 320
        assert len(tokenizer.encode(text)) < len(text) / 2
        assert tokenizer.decode(tokenizer.encode(STRANGE)) == STRANGE
        assert BPE.learn(text, 320) == tokenizer
        assert BPE.learn(text, 256).size == 256

    def test_unknown_characters_are_named_with_their_place(self):
        with pytest.raises(UserError) as error:
            Characters.of("abc\n ").encode("ab\ncab Zb é")
        for word in ("'Z' (U+005A)", "'é' (U+00E9)", "2 of 11", "position 7", "line 2", "--data.unit byte"):
            assert word in str(error.value)

    @pytest.mark.parametrize("tokenizer", [Characters(symbols="ab"), Bytes()])
    def test_a_mask_stands_for_no_text(self, tokenizer):
        with pytest.raises(UserError, match=f"got \\[{tokenizer.size}\\]"):
            tokenizer.decode(np.array([0, tokenizer.size, 1]))
        for wrong in ([-1], np.zeros((2, 2), int), np.array([0.5])):
            with pytest.raises(UserError):
                tokenizer.decode(wrong)

    @pytest.mark.parametrize(
        "call",
        [
            lambda: Characters(symbols="aba"),
            lambda: Characters(symbols=""),
            lambda: BPE.learn("text", 255),
            lambda: BPE(model="{}"),
            lambda: from_json({"kind": "words"}),
            lambda: from_json({"kind": "characters"}),
            lambda: from_json({}),
        ],
    )
    def test_wrong_inputs(self, call):
        with pytest.raises(UserError):
            call()


class TestTextFile:
    def test_parts_tokens_and_provenance(self, tmp_path):
        text = make_text()
        (tmp_path / "my.book.txt").write_text(text)
        found = TextFile(path=str(tmp_path / "my.book.txt")).load()
        parts = [found.tokenizer.decode(part) for part in (found.train, found.validation, found.test)]
        assert "".join(parts) == text
        assert [len(part) / len(text) for part in parts] == pytest.approx([0.9, 0.05, 0.05], abs=1e-3)
        assert (found.name, found.characters_per_token, len(found.checksum)) == ("my", 1, 64)
        assert str(tmp_path) in found.provenance

    def test_packed_and_marked_files_are_the_same_text(self, tmp_path):
        text = make_text() + "é"
        (tmp_path / "a.txt").write_text(text, encoding="utf-8-sig")
        (tmp_path / "b.gz").write_bytes(gzip.compress(text.encode()))
        a, b = (TextFile(path=str(tmp_path / name), unit="byte").load() for name in ("a.txt", "b.gz"))
        assert a.checksum == b.checksum

    def test_checksum_tells_texts_and_tokenizers_apart(self, tmp_path):
        for name, text in (("a", make_text()), ("b", make_text().replace("the", "teh", 1))):
            (tmp_path / name).write_text(text)
        found = [TextFile(path=str(tmp_path / n), unit=u).load() for n in "ab" for u in ("character", "byte", "bpe")]
        assert len({each.checksum for each in found}) == 6

    def test_characters_per_token(self, tmp_path):
        (tmp_path / "a").write_text("日本" * 500)
        assert TextFile(path=str(tmp_path / "a"), unit="byte").load().characters_per_token == pytest.approx(1 / 3)
        (tmp_path / "b").write_text(make_text())
        found = TextFile(path=str(tmp_path / "b"), unit="bpe", vocabulary=300).load()
        assert found.characters_per_token == len(found.tokenizer.decode(found.test)) / len(found.test) > 1.5

    def test_a_vocabulary_of_the_training_part_alone(self, tmp_path):
        (tmp_path / "a").write_text("ab" * 500 + "#")
        with pytest.raises(UserError, match=r"part test.*'#'"):
            TextFile(path=str(tmp_path / "a")).load()
        assert TextFile(path=str(tmp_path / "a"), unit="byte").load().test[-1] == ord("#")

    @pytest.mark.parametrize(
        ("content", "name", "says"),
        [
            (None, "a", "Check the path"),
            (b"caf\xe9 " * 9, "a", "position 3"),
            (b"", "a", "is empty"),
            (b"abc", "a", "is empty"),
            (b"not packed", "a.gz", "reading it gave"),
        ],
    )
    def test_wrong_files(self, content, name, says, tmp_path):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=says):
            TextFile(path=str(tmp_path / name)).load()

    def test_another_unit(self, tmp_path):
        (tmp_path / "a").write_text(make_text())
        with pytest.raises(UserError, match="unit"):
            TextFile(path=str(tmp_path / "a"), unit="word").load()  # type: ignore[arg-type]


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A small text in the place of Shakespeare's."""
    text = make_text() + "é"
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "input.txt").write_text(text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    monkeypatch.setattr(corpora, "_SHAKESPEARE_FILES", {"input.txt": digest})
    return folder, text


def whole(found):
    return "".join(found.tokenizer.decode(part) for part in (found.train, found.validation, found.test))


class TestPrepared:
    def test_prepared_once_in_chunks(self, small, tmp_path, monkeypatch):
        folder, text = small
        monkeypatch.setattr(prepared, "_CHUNK", 97)
        source = TinyShakespeare(raw_dir=str(folder), data_dir=str(tmp_path / "tfds"), unit="byte")
        said = []
        first = source.load(said.append)
        assert whole(first) == text
        assert len(said) == 1 and "preparing" in said[0]
        (folder / "input.txt").unlink()
        second = source.load(said.append)
        assert (second.checksum, len(said)) == (first.checksum, 1)

    def test_what_tfds_prepared_is_taken(self, tmp_path):
        card = prepared.Card(name="tiny_shakespeare", description="", homepage="there", licence="")
        prepared.load(card, lambda _: texts.split(make_text()), data_dir=str(tmp_path), progress=print)
        found = TinyShakespeare(data_dir=str(tmp_path)).load()
        assert whole(found) == make_text()
        assert found.provenance == "there, read from TFDS tiny_shakespeare/1.0.0"

    def test_tfds_splits_where_we_do(self):
        """The arithmetic of TFDS's builder, at lengths where rounding decides."""
        for length in (*range(20, 60), 1_115_394):
            i = int(length * 0.9)
            j = i + int((length - i) * 0.5)
            parts = texts.split("x" * length)
            assert [len(part) for part in parts.values()] == [i, j - i, length - j]

    def test_missing_and_wrong_files_are_named(self, small, tmp_path):
        folder, _ = small
        with pytest.raises(UserError, match=r"input\.txt in --data\.raw-dir"):
            TinyShakespeare(raw_dir=str(tmp_path), data_dir=str(tmp_path / "tfds")).load()
        (folder / "input.txt").write_text("other")
        with pytest.raises(UserError, match="another sha256"):
            TinyShakespeare(raw_dir=str(folder), data_dir=str(tmp_path / "tfds")).load()

    def test_downloads(self, small, tmp_path, monkeypatch):
        folder, text = small
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        handler = functools.partial(QuietHandler, directory=str(folder))
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                monkeypatch.setattr(corpora, "_SHAKESPEARE_MIRRORS", (f"http://127.0.0.1:{server.server_port}/",))
                found = TinyShakespeare(data_dir=str(tmp_path / "tfds"), unit="byte").load()
            finally:
                server.shutdown()
                thread.join()
        assert whole(found) == text


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


class TestPublished:
    def test_shakespeare(self, tmp_path):
        folder = raw_folder("tinyshakespeare", "input.txt")
        found = TinyShakespeare(raw_dir=str(folder), data_dir=str(tmp_path)).load()
        assert whole(found) == (folder / "input.txt").read_text()
        assert [len(part) for part in (found.train, found.validation, found.test)] == [1_003_854, 55_770, 55_770]
        assert found.tokenizer.size == 65

    def test_text8_in_every_form(self, tmp_path):
        folder = raw_folder("text8-prefix", "text8.first6000000.gz")
        found = Text8(raw_dir=str(folder)).load()
        assert [len(part) for part in (found.train, found.validation, found.test)] == [5_400_000, 300_000, 300_000]
        assert found.tokenizer.symbols == " abcdefghijklmnopqrstuvwxyz"
        data = gzip.decompress((folder / "text8.first6000000.gz").read_bytes())[:1_200_000]
        for name in ("text8.zip", "text8.gz", "text8"):  # each hides the one before
            if name == "text8.zip":
                with zipfile.ZipFile(tmp_path / name, "w") as archive:
                    archive.writestr("text8", data)
            else:
                (tmp_path / name).write_bytes(gzip.compress(data, 1) if name == "text8.gz" else data + b"\n")
            other = Text8(raw_dir=str(tmp_path)).load()
            assert name in other.provenance
            np.testing.assert_array_equal(other.train, found.train[: len(other.train)])
            assert len(other.train) == 1_080_000

    @pytest.mark.parametrize(("content", "says"), [(None, "has none of them"), ("other words", "another one")])
    def test_text8_wrong(self, content, says, tmp_path):
        if content:
            (tmp_path / "text8").write_text(content)
        with pytest.raises(UserError, match=says):
            Text8(raw_dir=str(tmp_path)).load()


def make_windows(count=103, length=8):
    """Token i is i, so a window's first token says where it begins."""
    return Windows(tokens=np.arange(count, dtype=np.int32), length=length)


class TestWindows:
    def test_shapes_and_stretches(self):
        for step, batch in zip(range(5), batches(make_windows(), batch_size=4, seed=0), strict=False):
            assert {k: (v.shape, v.dtype.name) for k, v in batch.items()} == {
                "x0": ((4, 8), "int32"),
                "index": ((4,), "int32"),
            }
            np.testing.assert_array_equal(batch["x0"], batch["x0"][:, :1] + np.arange(8))
            np.testing.assert_array_equal(batch["index"], np.arange(4 * step, 4 * step + 4))

    @pytest.mark.parametrize(("count", "length"), [(103, 8), (16, 8), (15, 8), (9, 8), (8, 8), (7, 1), (47, 16)])
    def test_an_epoch_sees_no_token_twice_and_leaves_few_out(self, count, length):
        windows = make_windows(count, length)
        offsets = set()
        order = Batches(split=windows, batch_size=len(windows), seed=3)
        for epoch in range(12):
            seen = order[epoch]["x0"].ravel()
            assert len(set(seen.tolist())) == len(seen) > count - 2 * length
            assert seen.max() - seen.min() + 1 == len(seen)
            offsets.add(int(seen.min()))
        assert len(offsets) > 1 or len(windows) * length == count

    def test_windows_begin_anywhere(self):
        windows = make_windows(20, 6)
        order = Batches(split=windows, batch_size=len(windows), seed=0)
        starts = np.concatenate([order[epoch]["x0"][:, 0] for epoch in range(200)])
        assert set(starts.tolist()) == set(range(20 - 6 + 1))
        first = np.bincount([order[epoch]["x0"].min() for epoch in range(1800)])
        assert len(first) == 9
        assert np.abs(first - 200).max() < 5 * np.sqrt(200)

    def test_epochs_and_seeds_differ(self):
        runs = [Batches(split=make_windows(), batch_size=11, seed=seed) for seed in (0, 0, 1)]
        np.testing.assert_array_equal(runs[0][0]["x0"], runs[1][0]["x0"])
        assert not np.array_equal(runs[0][0]["x0"], runs[2][0]["x0"])
        assert not np.array_equal(runs[0][0]["x0"], runs[0][1]["x0"])

    def test_epochs_meet_inside_a_batch(self):
        windows = make_windows()
        alone = np.concatenate([Batches(split=windows, batch_size=1, seed=0)[i]["x0"] for i in range(40)])
        np.testing.assert_array_equal(Batches(split=windows, batch_size=40, seed=0)[0]["x0"], alone)

    @pytest.mark.parametrize("processes", [2, 3])
    def test_union_is_the_batch_of_one_process(self, processes):
        share = lambda h, of: Batches(split=make_windows(), batch_size=12, seed=7, process_index=h, process_count=of)
        for step in range(4):
            parts = [share(h, processes)[step] for h in range(processes)]
            order = np.argsort(np.concatenate([part["index"] for part in parts]))
            for key, expected in share(0, 1)[step].items():
                np.testing.assert_array_equal(np.concatenate([part[key] for part in parts])[order], expected)

    def test_a_checkpoint_goes_on_where_it_stood(self):
        iterator = batches(make_windows(), batch_size=5, seed=2)
        for _ in range(7):
            next(iterator)
        state = iterator.get_state()
        fresh = batches(make_windows(), batch_size=5, seed=2, prefetch=4)
        fresh.set_state(state)
        for _ in range(6):
            np.testing.assert_array_equal(next(fresh)["x0"], next(iterator)["x0"])

    def test_spread_covers_the_stream(self):
        rows = spread(np.arange(100, dtype=np.int32), 8, 5)
        np.testing.assert_array_equal(rows, rows[:, :1] + np.arange(8))
        assert rows[:, 0].tolist() == [0, 24, 48, 64, 88]
        assert len(spread(np.arange(100), 8, 50)) == 12

    def test_wrong_inputs(self):
        for call in (lambda: make_windows(7, 8), lambda: make_windows(7, 0), lambda: spread(np.arange(7), 8, 1)):
            with pytest.raises(UserError, match="window"):
                call()
        with pytest.raises(UserError, match="flip"):
            batches(make_windows(), batch_size=4, seed=0, flip=True)


def test_importing_loads_no_heavy_library():
    names = ("tensorflow_datasets", "grain", "tokenizers", "rouge_score", "nltk", "jax")
    loads = "import sys, experiments.text.metrics, experiments.text.ngrams"
    code = f"{loads}; print(*(n for n in {names} if n in sys.modules))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
