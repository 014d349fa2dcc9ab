"""Values of a dialogue as numbered blanks: a reply says where a name stands, and the name is put in afterwards.

"I found Sino in Oakland" becomes "I found \u2460 in \u2461" (delexicalisation, arXiv 1508.01745). A model of few
dialogues need not learn to spell names that it never saw.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

from experiments.text.dialogues.dialogue import Exchange

BLANKS = "".join(chr(0x2460 + i) for i in range(20))
"""Circled numbers; values beyond the twentieth stay as they are."""


def blanked(exchange: Exchange) -> tuple[Exchange, tuple[str, ...]]:
    """The exchange with its required values, whatever their capitals, as blanks, and these values in order."""
    values = exchange.required[: len(BLANKS)]
    acts = tuple(replace(act, values=tuple(cut(value, values) for value in act.values)) for act in exchange.acts)
    context = tuple(cut(line, values) for line in exchange.context)
    return replace(exchange, context=context, acts=acts, reply=cut(exchange.reply, values)), values


def cut(text: str, values: Sequence[str]) -> str:
    """The text with a blank for each of the values, whatever its capitals, where it stands as whole words."""
    if not values:
        return text
    blank = {value.casefold(): BLANKS[i] for i, value in reversed(list(enumerate(values)))}
    # All at once, the longest first, so that no value is cut out of another.
    names = "|".join(re.escape(value) for value in sorted(blank, key=len, reverse=True))
    put = lambda found: str(blank.get(found.group().casefold(), found.group()))
    return re.sub(rf"(?<!\w)(?:{names})(?!\w)", put, text, flags=re.IGNORECASE)


def filled(text: str, values: Sequence[str]) -> str:
    """The text with each blank that has a value as that value."""
    return "".join(values[BLANKS.index(c)] if c in BLANKS[: len(values)] else c for c in text)


def asked(text: str) -> tuple[str, ...]:
    """The values in the acts of a prompt, its lines `say: OFFER(restaurant_name=Sino); ...`."""
    acts = [line for line in text.split("\n") if line.startswith("say: ")]
    values = [value for line in acts for inside in re.findall(r"=([^()]*)\)", line) for value in inside.split(", ")]
    return tuple(dict.fromkeys(values))[: len(BLANKS)]
