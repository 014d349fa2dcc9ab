"""A text and its answer as one window of tokens, the text given: for conditional samples of text.

    [ ... end end | prompt | separator | target | end end ... ]
      observed                          to be sampled

Every window has the same places for the prompt and for the target, so one mask serves all. A shorter prompt stands at
the right of its places; a shorter target is followed by `end`, which a model has to learn to say.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from experiments.errors import UserError
from experiments.text.tokenizers import Tokenizer


@dataclass(frozen=True, kw_only=True, eq=False)
class Pairs:
    """N windows of L = prompt_length + 1 + target_length tokens; examples for `experiments.data.batches`.

    Args:
        x0: int32 (N, L), tokens in 0..size - 1.
        observed: bool (N, L), True at prompt and separator.
        tokenizer: of the text; its tokens are 0..size - 3, then come `separator` and `end`.
        prompt_length, target_length: places.
        cut_prompts: how many prompts were longer than their places and lost tokens.
        cut_targets: how many targets were longer than their places and lost their last tokens.
    """

    x0: np.ndarray
    observed: np.ndarray
    tokenizer: Tokenizer
    prompt_length: int
    target_length: int
    cut_prompts: int
    cut_targets: int

    @property
    def size(self) -> int:
        """Tokens: those of the tokenizer and two."""
        return self.tokenizer.size + 2

    @property
    def separator(self) -> int:
        return self.tokenizer.size

    @property
    def end(self) -> int:
        return self.tokenizer.size + 1

    def __len__(self) -> int:
        return len(self.x0)

    def window(self, prompt: str) -> dict[str, np.ndarray]:
        """One window, (1, L), with this prompt and nothing else known. Raises `UserError` for one that is too long."""
        tokens = self.tokenizer.encode(prompt)
        if len(tokens) > self.prompt_length:
            raise UserError(
                f"the prompt takes {len(tokens)} tokens and the run has places for {self.prompt_length}; shorten it"
            )
        x0 = np.full((1, self.x0.shape[1]), self.end, np.int32)
        x0[0, self.prompt_length] = self.separator
        x0[0, self.prompt_length - len(tokens) : self.prompt_length] = tokens
        return {"x0": x0, "observed": np.arange(x0.shape[1])[None] <= self.prompt_length}

    def take(self, examples: np.ndarray, epochs: np.ndarray, seed: int) -> dict[str, np.ndarray]:
        """`x0` and `observed`, (b, L), of the examples (b,)."""
        return {"x0": self.x0[examples], "observed": self.observed[examples]}

    def targets(self, tokens: np.ndarray) -> list[str]:
        """The target of each window of (n, L) tokens: up to the first `end`, without tokens that stand for no text.

        Those are the separator and, if sampling left some, masks. Raises `UserError` for another shape.
        """
        if np.ndim(tokens) != 2 or np.shape(tokens)[1] != self.x0.shape[1]:
            raise UserError(
                f"targets needs windows (n, {self.x0.shape[1]}); got {np.shape(tokens)}. Pass whole windows."
            )
        answers = np.asarray(tokens)[:, self.prompt_length + 1 :]
        found = []
        for answer in answers:
            said = answer[: int(np.argmax(np.append(answer, self.end) == self.end))]
            found.append(self.tokenizer.decode(said[(said >= 0) & (said < self.tokenizer.size)]))
        return found


def pairs(
    prompts: Sequence[str],
    targets: Sequence[str],
    tokenizer: Tokenizer,
    *,
    prompt_length: int,
    target_length: int,
    keep: Literal["beginning", "end"],
) -> Pairs:
    """Windows of prompts and targets.

    Args:
        prompts, targets: N texts each.
        tokenizer: of both.
        prompt_length, target_length: places of each, at least 1.
        keep: what remains of a prompt that is too long: its beginning, for an abstract, or its end, for a dialogue. Of
            a target the beginning remains, without `end`. `cut_prompts` and `cut_targets` say how many were cut.

    Raises:
        UserError: lengths below 1, different numbers of prompts and targets, or text that the tokenizer lacks.
    """
    if min(prompt_length, target_length) < 1 or len(prompts) != len(targets) or keep not in ("beginning", "end"):
        raise UserError(
            "pairs needs one target a prompt, lengths of at least 1, and keep beginning or end; got "
            f"{len(prompts)} prompts, {len(targets)} targets, lengths {prompt_length} and {target_length}, {keep!r}."
        )
    n, length = len(prompts), prompt_length + 1 + target_length
    x0 = np.full((n, length), tokenizer.size + 1, np.int32)
    x0[:, prompt_length] = tokenizer.size
    cut_prompts = cut_targets = 0
    for row, prompt, target in zip(x0, prompts, targets, strict=True):
        given, said = tokenizer.encode(prompt), tokenizer.encode(target)
        cut_prompts += len(given) > prompt_length
        cut_targets += len(said) > target_length
        given = given[:prompt_length] if keep == "beginning" else given[-prompt_length:]
        row[prompt_length - len(given) : prompt_length] = given
        row[prompt_length + 1 : prompt_length + 1 + len(said)] = said[:target_length]
    observed = np.zeros((n, length), bool)
    observed[:, : prompt_length + 1] = True
    return Pairs(
        x0=x0,
        observed=observed,
        tokenizer=tokenizer,
        prompt_length=prompt_length,
        target_length=target_length,
        cut_prompts=cut_prompts,
        cut_targets=cut_targets,
    )
