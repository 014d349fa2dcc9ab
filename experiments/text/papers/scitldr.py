"""SciTLDR-A: abstracts of papers in computer science, sentence by sentence, each with summaries of one sentence.

I. Cachola, K. Lo, A. Cohan, D. Weld, TLDR: Extreme Summarization of Scientific Documents, arXiv 2004.15011,
https://github.com/allenai/scitldr; licence Apache-2.0. 1,992 papers to train with one summary each, by an author;
619 to validate and 618 to test with one to four: the author's first, then those made from reviews.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

from experiments.data.images import Progress, silent
from experiments.text import published

_FILES = {
    "train.jsonl": "b222771d387be585cfdf5ae957b36757138415a352e0a3e3b23f73f87c3b1119",
    "dev.jsonl": "3191fa98ccc09521332b7a1cd63b1930be4e8df125a235ccd31e40329709525e",
    "test.jsonl": "fb42dd6cd4f4a1928ae8a01a189456fbfe994a07e938bd49f68653933f6503c9",
}
_MIRRORS = ("https://raw.githubusercontent.com/allenai/scitldr/master/SciTLDR-Data/SciTLDR-A/",)
_HOME = "https://github.com/allenai/scitldr (Apache-2.0), SciTLDR-A"
# Ligatures of the typesetters; everything else is kept as written.
_LIGATURES = str.maketrans({"ﬁ": "fi", "ﬂ": "fl", "ﬀ": "ff"})
_END = re.compile(r"[.!?:;][\"'”\u2019)\]]*$")


@dataclass(frozen=True, kw_only=True)
class Paper:
    """One abstract and what it was summarised to.

    Args:
        name: the paper's id on OpenReview.
        title: for people; the task is to summarise the abstract alone.
        sentences: of the abstract, in order, none empty.
        references: one to four summaries.
        extractive: the published label: the sentence closest to the first reference by ROUGE-1, in
            0..len(sentences) - 1.
    """

    name: str
    title: str
    sentences: tuple[str, ...]
    references: tuple[str, ...]
    extractive: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Papers:
    """The papers of the published parts; a paper that stands in two of them is kept in the later one.

    Args:
        train, validation, test: papers.
        dropped: papers left out of train and of validation because a later part has the same abstract.
        checksum: sha256 (64 hex digits) of all that was read.
        provenance: source and licence.
    """

    train: tuple[Paper, ...]
    validation: tuple[Paper, ...]
    test: tuple[Paper, ...]
    dropped: int
    checksum: str
    provenance: str


@dataclass(frozen=True, kw_only=True)
class SciTldr:
    """SciTLDR-A, cleaned: single spaces, no control characters, no ligatures, no empty sentence.

    About one abstract in ten was cut at the ends of printed lines, not of sentences.
    """

    rejoin: bool = False
    """Put pieces of sentences together again; published figures are of the pieces as they are."""
    raw_dir: str | None = None
    """Folder with train.jsonl, dev.jsonl and test.jsonl, each plain or with .gz; None to download them."""
    data_dir: str | None = None
    """Where downloads lie; None for TFDS's default (TFDS_DATA_DIR, or ~/tensorflow_datasets)."""

    def load(self, progress: Progress = silent) -> Papers:
        """Reads the three files, in under a second once they are there. Raises `UserError` if they cannot be had."""
        files = published.read(
            "scitldr", _FILES, raw_dir=self.raw_dir, data_dir=self.data_dir, mirrors=_MIRRORS, progress=progress
        )
        later: set[tuple[str, ...]] = set()
        parts: dict[str, tuple[Paper, ...]] = {}
        dropped = 0
        for part, file in (("test", "test.jsonl"), ("validation", "dev.jsonl"), ("train", "train.jsonl")):
            papers = [_paper(json.loads(line), self.rejoin) for line in files[file].decode().splitlines()]
            parts[part] = tuple(p for p in papers if p.sentences not in later)
            dropped += len(papers) - len(parts[part])
            later |= {p.sentences for p in papers}
        listed = {part: [(*p.sentences, "", *p.references) for p in papers] for part, papers in parts.items()}
        return Papers(**parts, dropped=dropped, checksum=published.checksum(listed), provenance=_HOME)


def clean(text: str) -> str:
    """Ligatures written out, control characters and runs of white space made single spaces, none at the ends."""
    return " ".join("".join(c if c.isprintable() else " " for c in text.translate(_LIGATURES)).split())


def rejoined(sentences: Iterable[str]) -> list[list[int]]:
    """Which pieces make a sentence: those after a piece that does not end as sentences do belong to it."""
    groups: list[list[int]] = []
    ended = True
    for i, sentence in enumerate(sentences):
        if ended:
            groups.append([i])
        else:
            groups[-1].append(i)
        ended = bool(_END.search(sentence))
    return groups


def _paper(record: dict, rejoin: bool) -> Paper:
    pieces = [clean(sentence) for sentence in record["source"]]
    kept = [i for i, piece in enumerate(pieces) if piece]
    pieces = [pieces[i] for i in kept]
    groups = rejoined(pieces) if rejoin else [[i] for i in range(len(pieces))]
    label = kept.index(record["source_labels"].index(1))
    return Paper(
        name=record["paper_id"],
        title=clean(record["title"]),
        sentences=tuple(" ".join(pieces[i] for i in group) for group in groups),
        references=tuple(clean(target) for target in record["target"]),
        extractive=next(g for g, group in enumerate(groups) if label in group),
    )
