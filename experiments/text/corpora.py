"""Texts to train on: tiny Shakespeare, text8, and a file of the user's own.

Tiny Shakespeare: 40,000 lines of plays, from A. Karpathy, https://github.com/karpathy/char-rnn; the plays are in the
public domain. text8: M. Mahoney, http://mattmahoney.net/dc/textdata.html, the first 10^8 characters of the English
Wikipedia of 2006, reduced to a to z and single spaces; licence GFDL, CC BY-SA 3.0.
"""

import gzip
import hashlib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.data import raw
from experiments.data.images import Progress, silent
from experiments.errors import UserError
from experiments.text import prepared, texts
from experiments.text.prepared import Card
from experiments.text.texts import Texts, Unit

_SHAKESPEARE = Card(
    name="jaxdiff_tiny_shakespeare",
    description="40,000 lines of Shakespeare's plays: 90 % of the characters to train, 5 % to validate, 5 % to test.",
    homepage="https://github.com/karpathy/char-rnn/blob/master/data/tinyshakespeare/input.txt",
    licence="public domain",
)
_SHAKESPEARE_FILES = {"input.txt": "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"}
_SHAKESPEARE_MIRRORS = ("https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/",)

_TEXT8 = Card(
    name="jaxdiff_text8",
    description="The first 10^8 characters of a cleaned Wikipedia: 90 % to train, 5 % to validate, 5 % to test.",
    homepage="http://mattmahoney.net/dc/textdata.html",
    licence="GFDL, CC BY-SA 3.0",
)
_TEXT8_FILES = {"text8.zip": "a6640522afe85d1963ad56c05b0ede0a0c000dddc9671758a6cc09b7a38e5232"}
_TEXT8_MIRRORS = ("http://mattmahoney.net/dc/",)
_TEXT8_NAMES = ("text8", "text8.gz", "text8.zip", "text8.first6000000.gz")
_TEXT8_PREFIX = "a29a713419313a2c4f0f38d3907938156a7c088a69c7c30542410124651ab5b2"
_TEXT8_SYMBOLS = frozenset(b" abcdefghijklmnopqrstuvwxyz")


@dataclass(frozen=True, kw_only=True)
class TinyShakespeare:
    """1,115,394 characters, 65 of them different, split as TFDS splits tiny_shakespeare."""

    unit: Unit = "character"
    """What a token is: a character, a byte, or what byte pair encoding learns."""
    vocabulary: int = 1024
    """Tokens that bpe may have."""
    length: int = 128
    """Tokens of a window: what the network sees at once."""
    bits: bool = False
    """Make real numbers of the tokens, their binary digits, for Gaussian diffusion."""
    raw_dir: str | None = None
    """Folder with the published input.txt; None to download it. Not read again once prepared."""
    data_dir: str | None = None
    """Where prepared data lies; None for TFDS's default (TFDS_DATA_DIR, or ~/tensorflow_datasets)."""

    def load(self, progress: Progress = silent) -> Texts:
        """Prepares on first use, unless TFDS's own tiny_shakespeare is there, and reads.

        Raises:
            UserError: the file cannot be had, or is not the published one.
        """

        def read(dl_manager: Any) -> Mapping[str, str]:
            options = {"raw_dir": self.raw_dir, "mirrors": _SHAKESPEARE_MIRRORS, "dl_manager": dl_manager}
            paths = raw.find("tiny_shakespeare", _SHAKESPEARE_FILES, **options, progress=progress)
            return texts.split(paths["input.txt"].read_bytes().decode())

        there = prepared.found("tiny_shakespeare", data_dir=self.data_dir)
        parts, provenance = there or prepared.load(_SHAKESPEARE, read, data_dir=self.data_dir, progress=progress)
        return texts.make("tiny_shakespeare", parts, unit=self.unit, vocabulary=self.vocabulary, provenance=provenance)


@dataclass(frozen=True, kw_only=True)
class Text8:
    """10^8 characters of 27 symbols, split 90, 5, 5 as the literature does; or the beginning of them.

    A `raw_dir` may hold text8.zip as published, text8, text8.gz, or a prefix text8.first6000000.gz; that file is then
    read each time. Without one the archive is downloaded (31 MB) and prepared once.
    """

    unit: Unit = "character"
    """What a token is: a character, a byte, or what byte pair encoding learns."""
    vocabulary: int = 1024
    """Tokens that bpe may have."""
    length: int = 128
    """Tokens of a window: what the network sees at once."""
    bits: bool = False
    """Make real numbers of the tokens, their binary digits, for Gaussian diffusion."""
    raw_dir: str | None = None
    """Folder with text8, text8.gz, text8.zip or text8.first6000000.gz; None to download text8.zip."""
    data_dir: str | None = None
    """Where prepared data lies; None for TFDS's default (TFDS_DATA_DIR, or ~/tensorflow_datasets)."""

    def load(self, progress: Progress = silent) -> Texts:
        """Reads the raw file, or prepares on first use and reads.

        Raises:
            UserError: no such file, or it is not text8.
        """
        if self.raw_dir is not None:
            path = _text8_in(Path(self.raw_dir).expanduser())
            parts = texts.split(_text8_from(path))
            provenance = f"{_TEXT8.homepage} ({_TEXT8.licence}), read from {path.name}"
        else:

            def read(dl_manager: Any) -> Mapping[str, str]:
                options = {"raw_dir": None, "mirrors": _TEXT8_MIRRORS, "dl_manager": dl_manager}
                paths = raw.find("text8", _TEXT8_FILES, **options, progress=progress)
                return texts.split(_text8_from(paths["text8.zip"]))

            parts, provenance = prepared.load(_TEXT8, read, data_dir=self.data_dir, progress=progress)
        return texts.make("text8", parts, unit=self.unit, vocabulary=self.vocabulary, provenance=provenance)


@dataclass(frozen=True, kw_only=True)
class TextFile:
    """A text of the user's own, UTF-8, plain or gzipped (.gz): 90 % to train, then 5 % to validate, 5 % to test."""

    path: str
    """The file."""
    unit: Unit = "character"
    """What a token is: a character, a byte, or what byte pair encoding learns."""
    vocabulary: int = 1024
    """Tokens that bpe may have."""
    length: int = 128
    """Tokens of a window: what the network sees at once."""
    bits: bool = False
    """Make real numbers of the tokens, their binary digits, for Gaussian diffusion."""

    def load(self, progress: Progress = silent) -> Texts:
        """Reads the file.

        Raises:
            UserError: no such file, not UTF-8, too short to split, or a held-out character that the first 90 % lack.
        """
        path = Path(self.path).expanduser()
        try:
            text = _unpacked(path).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path} must be UTF-8 text; the byte at position {error.start} is not ({error.reason}). Convert it, "
                "for example with iconv -t utf-8."
            ) from error
        return texts.make(
            path.name.split(".")[0],
            texts.split(text),
            unit=self.unit,
            vocabulary=self.vocabulary,
            provenance=f"{path.resolve()} (the user's own)",
        )


def _unpacked(path: Path) -> bytes:
    try:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                return archive.read(archive.namelist()[0])
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} must be a readable file; reading it gave: {error}. Check the path and the file."
        ) from error


def _text8_in(folder: Path) -> Path:
    for name in _TEXT8_NAMES:
        if (folder / name).is_file():
            return folder / name
    raise UserError(
        f"text8 needs one of {', '.join(_TEXT8_NAMES)} in --data.raw-dir; {folder} has none of them. Download "
        f"{_TEXT8_MIRRORS[0]}text8.zip, and leave it packed."
    )


def _text8_from(path: Path) -> str:
    data = _unpacked(path).rstrip(b"\n")
    beginning = hashlib.sha256(data[:1_000_000]).hexdigest()
    if beginning != _TEXT8_PREFIX or not _TEXT8_SYMBOLS.issuperset(set(data)):
        raise UserError(
            f"text8 needs the text as published, a to z and spaces; {path} is another one: its first million "
            f"characters have sha256 {beginning[:12]}. Download {_TEXT8_MIRRORS[0]}text8.zip again, or use a text file."
        )
    return data.decode("ascii")
