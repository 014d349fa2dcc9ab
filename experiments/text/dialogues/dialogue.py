"""Dialogues turn by turn: what was said, what the system is to say, and how it was said.

Schema-guided dialogues: A. Rastogi and others, arXiv 1909.05855, licence CC BY-SA 4.0,
https://github.com/google-research-datasets/dstc8-schema-guided-dialogue. The system's acts say what a reply must hold,
such as OFFER(restaurant_name=Sino). `experiments.text.dialogues.chatterbot` has dialogues without acts.
"""

import json
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from experiments.data.images import Progress, silent
from experiments.data.order import permutation
from experiments.errors import UserError
from experiments.text import published
from experiments.text.papers.scitldr import clean

_SGD_FILES = {
    "dev/dialogues_005.json": "107d8bc1ce21b06453f33cc8dfc19172e0956646b47d9c1db7bdcd978a323d73",
    "dev/dialogues_007.json": "d9af6ffcb69257ab3ce10e4637fc4d45d268094e55693b170a9b5b9d914dc611",
    "test/dialogues_010.json": "b4fc2c16d0cb46e14d0def357f4a941ee61fad3c6c8dd430ac8bae6145f1e4d0",
    "test/dialogues_011.json": "1c2e312ce653bdd4ba1fe74b44ef20b36bab74b8ccf7bc2e591c632d5492a21b",
}
_SGD_MIRRORS = ("https://raw.githubusercontent.com/google-research-datasets/dstc8-schema-guided-dialogue/master/",)
_SPLIT_SEED = 1909
# Values that a reply puts into words of its own: "no, it is not free".
_UNSAID = frozenset({"True", "False", "None", "dontcare"})


@dataclass(frozen=True, kw_only=True)
class Act:
    """One thing that the system is to say: `name` such as OFFER, of `slot` ("" for none) with `values`, maybe none."""

    name: str
    slot: str
    values: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """What was said and the next turn.

    Args:
        dialogue: its name; all exchanges of a dialogue lie in one part.
        context: turns so far, oldest first, at least one; the user said the last, the other the one before, and so on.
        acts: what the reply is to say; none in ChatterBot.
        reply: the next turn.
    """

    dialogue: str
    context: tuple[str, ...]
    acts: tuple[Act, ...]
    reply: str

    @property
    def required(self) -> tuple[str, ...]:
        """The values that a reply must hold word for word: of all slots but yes or no, "None", and names of intents."""
        values = [v for act in self.acts if act.slot not in ("", "intent") for v in act.values if v not in _UNSAID]
        return tuple(dict.fromkeys(values))


@dataclass(frozen=True, kw_only=True, eq=False)
class Dialogues:
    """Exchanges in three parts by dialogue: about 80, 10 and 10 %.

    Args:
        name: short name.
        train, validation, test: exchanges.
        checksum: sha256 (64 hex digits) of all that was read.
        provenance: source and licence.
    """

    name: str
    train: tuple[Exchange, ...]
    validation: tuple[Exchange, ...]
    test: tuple[Exchange, ...]
    checksum: str
    provenance: str


class Source(Protocol):
    """A description of dialogues that a recipe holds."""

    def load(self, progress: Progress = silent) -> Dialogues: ...


@dataclass(frozen=True, kw_only=True)
class SchemaGuided:
    """375 schema-guided dialogues, 2,209 turns of the system, about films, hotels, banks, events and sights.

    They are four files of the published development and test sets, whose services differ: mixed here, and split anew by
    dialogue, so that figures are not those of the published test set.
    """

    raw_dir: str | None = None
    """Folder with dev/dialogues_005.json and so on, or dev_dialogues_005.json, each maybe .gz; None to download."""
    data_dir: str | None = None
    """Where downloads lie; None for TFDS's default (TFDS_DATA_DIR, or ~/tensorflow_datasets)."""

    def load(self, progress: Progress = silent) -> Dialogues:
        """Reads the files, in under a second. Raises `UserError` if they cannot be had."""
        files = published.read(
            "sgd", _SGD_FILES, raw_dir=self.raw_dir, data_dir=self.data_dir, mirrors=_SGD_MIRRORS, progress=progress
        )
        found = [
            exchange
            for name, content in files.items()
            for dialogue in json.loads(content)
            for exchange in _exchanges(f"{name.split('/')[0]}/{dialogue['dialogue_id']}", dialogue["turns"])
        ]
        home = "https://github.com/google-research-datasets/dstc8-schema-guided-dialogue (CC BY-SA 4.0), 4 files"
        return split("sgd", [(e.dialogue, e) for e in found], home)


def split(name: str, exchanges: Sequence[tuple[Hashable, Exchange]], provenance: str) -> Dialogues:
    """Parts by group: the exchanges of a group, the first of each pair, lie in one part, whatever else there is.

    Raises:
        UserError: fewer than ten groups.
    """
    groups = list(dict.fromkeys(group for group, _ in exchanges))
    if len(groups) < 10:
        raise UserError(f"{name} needs at least ten dialogues to split; got {len(groups)}. Use more of them.")
    tenth = len(groups) // 10
    rank = permutation(len(groups), _SPLIT_SEED)
    part_of = {
        groups[g]: "test" if r < tenth else "validation" if r < 2 * tenth else "train" for r, g in enumerate(rank)
    }
    parts: dict[str, list[Exchange]] = {"train": [], "validation": [], "test": []}
    for group, exchange in exchanges:
        parts[part_of[group]].append(exchange)
    listed = {p: [(e.context, [(a.name, a.slot, a.values) for a in e.acts], e.reply) for e in parts[p]] for p in parts}
    frozen: Mapping[str, tuple[Exchange, ...]] = {part: tuple(found) for part, found in parts.items()}
    return Dialogues(name=name, **frozen, checksum=published.checksum(listed), provenance=provenance)


def prompt(exchange: Exchange, *, turns: int = 3, acts: bool = True) -> str:
    """What a reply is sampled from: the last `turns` turns, one a line, and what the system is to say, if it is known.

    Without `acts` a reply cannot know prices or telephone numbers: they come from a database.
    """
    said = exchange.context[-turns:] if turns > 0 else ()
    lines = [f"{'user' if (len(said) - i) % 2 else 'system'}: {line}" for i, line in enumerate(said)]
    if acts and exchange.acts:
        lines.append("say: " + "; ".join(_written(act) for act in exchange.acts))
    return "\n".join(lines)


def slot_error(replies: Sequence[str], exchanges: Sequence[Exchange]) -> float:
    """The share of required values that their reply lacks, in [0, 1], of all replies together; NaN for no value.

    A value is there if it stands in the reply as whole words, whatever its capitals.

    Raises:
        UserError: another number of replies than of exchanges.
    """
    if len(replies) != len(exchanges):
        raise UserError(f"slot_error needs a reply an exchange; got {len(replies)} for {len(exchanges)}.")
    lacks = [
        not holds(reply, value)
        for reply, exchange in zip(replies, exchanges, strict=True)
        for value in exchange.required
    ]
    return float(np.mean(lacks)) if lacks else float("nan")


def holds(reply: str, value: str) -> bool:
    """Whether a value stands in a reply as whole words: "2" does not stand in "12"."""
    return re.search(rf"(?<!\w){re.escape(value.casefold())}(?!\w)", reply.casefold()) is not None


def _written(act: Act) -> str:
    inside = act.slot + ("=" if act.slot and act.values else "") + ", ".join(act.values)
    return f"{act.name}({inside})" if inside else act.name


def _exchanges(name: str, turns: Iterable[Mapping[str, Any]]) -> list[Exchange]:
    found, said = [], []
    for turn in turns:
        text = clean(turn["utterance"])
        if turn["speaker"] == "SYSTEM" and said:
            acts = tuple(
                Act(name=a["act"], slot=a["slot"], values=tuple(map(clean, a["values"])))
                for frame in turn["frames"]
                for a in frame["actions"]
            )
            found.append(Exchange(dialogue=name, context=tuple(said), acts=acts, reply=text))
        said.append(text)
    return found
