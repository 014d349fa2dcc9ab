"""Replies of a dialogue, given what was said and, of schema-guided ones, what the reply is to say."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from experiments.data.images import Progress, silent
from experiments.errors import UserError
from experiments.text.bpe import BPE
from experiments.text.dialogues import retrieval, slots
from experiments.text.dialogues.chatterbot import ChatterBot
from experiments.text.dialogues.dialogue import SchemaGuided, prompt
from experiments.text.pairs import pairs
from experiments.text.tasks import Paired, Question, Task


@dataclass(frozen=True, kw_only=True)
class Replies:
    """Dialogues as windows of a prompt and its reply, in byte pair encoding."""

    corpus: Literal["schema-guided", "chatterbot"] = "schema-guided"
    turns: int = 1
    """Turns that the reply is given, the last of them the user's."""
    blanks: bool = True
    """Write the values that a reply must hold as numbered blanks, and put them in afterwards."""
    vocabulary: int = 1024
    """Tokens of the byte pair encoding, at most."""
    prompt_length: int = 72
    """Tokens of a prompt; of a longer one the end remains."""
    reply_length: int = 32
    """Tokens of a reply; a longer one loses its end."""
    raw_dir: str | None = None
    """Folder with the corpus's files; None to download."""
    data_dir: str | None = None
    """Where downloads lie; None for TFDS's default (TFDS_DATA_DIR, or ~/tensorflow_datasets)."""

    def load(self, progress: Progress = silent) -> Task:
        """Raises `UserError` if the files cannot be had or a number is not one of the data's."""
        if self.turns < 1:
            raise UserError(f"--data.turns must be at least 1, got {self.turns}")
        corpus = SchemaGuided if self.corpus == "schema-guided" else ChatterBot
        dialogues = corpus(raw_dir=self.raw_dir, data_dir=self.data_dir).load(progress)
        blanked = slots.blanked if self.blanks else lambda exchange: (exchange, ())
        asks = slots.asked if self.blanks else lambda text: ()
        made = {part: [blanked(e) for e in getattr(dialogues, part)] for part in ("train", "validation", "test")}
        asked = {part: [prompt(e, turns=self.turns) for e, _ in made[part]] for part in made}
        said = {part: [e.reply for e, _ in made[part]] for part in made}
        tokenizer = BPE.learn("\n".join([*asked["train"], *said["train"]]), self.vocabulary)
        lengths = {"prompt_length": self.prompt_length, "target_length": self.reply_length}
        windows = {part: pairs(asked[part], said[part], tokenizer, **lengths, keep="end") for part in made}
        cut = windows["test"].cut_prompts, windows["test"].cut_targets
        progress(
            f"{dialogues.name}: of {len(dialogues.test)} test windows {cut[0]} prompts and {cut[1]} replies are cut"
        )
        values = [v for _, v in made["test"]]
        chosen = lambda rows: [dialogues.test[int(i)] for i in rows]

        def read(tokens: np.ndarray, rows: np.ndarray) -> list[str]:
            found = windows["test"].targets(tokens[0])
            return [slots.filled(text, values[int(i)]) for text, i in zip(found, rows, strict=True)]

        def judge(texts: Sequence[str], rows: np.ndarray) -> dict[str, float]:
            return retrieval.evaluate(texts, chosen(rows))

        def ask(text: str) -> Question:
            blanks = asks(text)
            row = windows["test"].window(slots.cut(text, blanks))
            answer = lambda tokens: slots.filled(windows["test"].targets(tokens[:1])[0], blanks)
            return Question(row=row, answer=answer)

        return Task(
            name=f"{dialogues.name}-replies",
            checksum=dialogues.checksum,
            provenance=dialogues.provenance,
            train=windows["train"],
            validation=windows["validation"],
            test=windows["test"],
            tokenizer=Paired(text=tokenizer),
            length=self.prompt_length + 1 + self.reply_length,
            prompt_length=self.prompt_length,
            given=[prompt(e, turns=self.turns) for e in dialogues.test],
            wanted=[e.reply for e in dialogues.test],
            read=read,
            judge=judge,
            baselines=lambda: retrieval.baselines(dialogues, turns=3),
            ask=ask,
            shown=("rouge_1", "rouge_2", "rouge_l", "slot_error"),
        )
