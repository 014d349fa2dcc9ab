"""Summaries of abstracts, given the abstract: as sentences that are kept, or written anew."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.data.images import Progress, silent
from experiments.errors import UserError
from experiments.text.bpe import BPE
from experiments.text.papers import summaries
from experiments.text.papers.scitldr import Papers, SciTldr
from experiments.text.papers.summaries import Summaries
from experiments.text.tasks import Figures, Marks, Paired, Question, Task

SHOWN = ("rouge_1_max", "rouge_1_mean", "rouge_2_max", "rouge_l_max")


@dataclass(frozen=True, kw_only=True)
class KeptSentences:
    """SciTLDR, extractive: a label a sentence of an abstract, of which one is 1, given what each sentence is like."""

    length: int = 28
    """Sentences of an abstract; a longer one loses its last."""
    topics: int = 16
    """Components of TF-IDF among the features of a sentence."""
    votes: int = 32
    """Samples of the labels of an abstract; the sentence that most of them keep is its summary."""
    raw_dir: str | None = None
    """Folder with train.jsonl, dev.jsonl and test.jsonl, each plain or with .gz; None to download them."""
    data_dir: str | None = None
    """Where downloads lie; None for TFDS's default (TFDS_DATA_DIR, or ~/tensorflow_datasets)."""

    def load(self, progress: Progress = silent) -> Task:
        """Raises `UserError` if the files cannot be had or a number is below 1."""
        if self.votes < 1:
            raise UserError(f"--data.votes must be at least 1, got {self.votes}")
        source = SciTldr(raw_dir=self.raw_dir, data_dir=self.data_dir)
        data = summaries.load(source, length=self.length, topics=self.topics, progress=progress)

        def read(tokens: np.ndarray, rows: np.ndarray) -> list[str]:
            scores = tokens.mean(0)
            return [summaries.from_scores(data.test.sentences[int(i)], s) for i, s in zip(rows, scores, strict=True)]

        def ask(text: str) -> Question:
            sentences = summaries.sentences(text)
            if not 0 < len(sentences) <= self.length:
                raise UserError(f"an abstract has 1 to {self.length} sentences, got {len(sentences)}; shorten it")
            row = summaries.row(sentences, data.features, self.length)
            return Question(row=row, answer=lambda tokens: summaries.from_scores(sentences, tokens.mean(0)))

        return Task(
            name="scitldr-kept",
            **_about(data, data.test.sentences, data.test.references),
            train=data.train,
            validation=data.validation,
            test=data.test,
            tokenizer=Marks(symbols="\u00b7\u25a0"),
            length=self.length,
            features=len(data.features.names),
            votes=self.votes,
            read=read,
            baselines=lambda: summaries.baselines(data),
            ask=ask,
        )


@dataclass(frozen=True, kw_only=True)
class WrittenSummaries:
    """SciTLDR, abstractive: windows of an abstract and its first summary, in byte pair encoding."""

    vocabulary: int = 2048
    """Tokens of the byte pair encoding, at most."""
    abstract_length: int = 192
    """Tokens of an abstract; a longer one loses its end."""
    summary_length: int = 48
    """Tokens of a summary; a longer one loses its end."""
    raw_dir: str | None = None
    """Folder with train.jsonl, dev.jsonl and test.jsonl, each plain or with .gz; None to download them."""
    data_dir: str | None = None
    """Where downloads lie; None for TFDS's default (TFDS_DATA_DIR, or ~/tensorflow_datasets)."""

    def load(self, progress: Progress = silent) -> Task:
        """Raises `UserError` if the files cannot be had."""
        source = SciTldr(raw_dir=self.raw_dir, data_dir=self.data_dir)
        data = source.load(progress)
        said = [text for p in data.train for text in (" ".join(p.sentences), p.references[0])]
        tokenizer = BPE.learn("\n".join(said), self.vocabulary)
        lengths = {"abstract_length": self.abstract_length, "summary_length": self.summary_length}
        parts = {"train": data.train, "validation": data.validation, "test": data.test}
        windows = {name: summaries.abstractive(part, tokenizer, **lengths) for name, part in parts.items()}
        cut = windows["test"].cut_prompts, windows["test"].cut_targets
        progress(f"scitldr: of {len(data.test)} test windows {cut[0]} abstracts and {cut[1]} summaries are cut")

        def ask(text: str) -> Question:
            return Question(
                row=windows["test"].window(text), answer=lambda tokens: windows["test"].targets(tokens[:1])[0]
            )

        return Task(
            name="scitldr-written",
            **_about(data, [p.sentences for p in data.test], [p.references for p in data.test]),
            train=windows["train"],
            validation=windows["validation"],
            test=windows["test"],
            tokenizer=Paired(text=tokenizer),
            length=self.abstract_length + 1 + self.summary_length,
            prompt_length=self.abstract_length,
            read=lambda tokens, rows: windows["test"].targets(tokens[0]),
            baselines=lambda: summaries.baselines(summaries.load(source, topics=1)),  # they look at no topic
            ask=ask,
        )


def _about(
    data: Summaries | Papers, sentences: Sequence[Sequence[str]], references: Sequence[Sequence[str]]
) -> dict[str, Any]:
    """What both tasks say of the test part and how they are judged."""

    def judge(texts: Sequence[str], rows: np.ndarray) -> Figures:
        return summaries.evaluate(texts, [references[int(i)] for i in rows])

    return {
        "checksum": data.checksum,
        "provenance": data.provenance,
        "given": list(map(" ".join, sentences)),
        "wanted": [texts[0] for texts in references],
        "judge": judge,
        "shown": SHOWN,
    }
