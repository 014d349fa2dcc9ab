"""ROUGE-1, -2 and -L of summaries: words, pairs of words and the longest common subsequence shared with references.

C.-Y. Lin, ROUGE, 2004, https://aclanthology.org/W04-1013; computed by Google's `rouge-score`.
"""

from collections.abc import Sequence

import numpy as np

from experiments.errors import UserError

_KINDS = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}


def rouge(predictions: Sequence[str], references: Sequence[Sequence[str]], *, stem: bool = False) -> dict[str, float]:
    """F1 in [0, 1], the mean over predictions of the best reference and of the mean over references.

    Args:
        predictions: N texts.
        references: one or several texts for each.
        stem: compare words without their English endings (Porter), as some papers do.

    Returns:
        `rouge_1_max`, `rouge_1_mean`, and the same of `rouge_2` and `rouge_l`.

    Raises:
        UserError: no predictions, another number of references, or a prediction without one.
    """
    if not len(predictions) or len(predictions) != len(references) or not all(len(r) for r in references):
        raise UserError(
            f"ROUGE needs at least one reference for each prediction; got {len(predictions)} predictions and "
            f"references {[len(r) for r in references][:10]}. Pass a list of texts for each."
        )
    if any(isinstance(r, str) for r in references):
        raise UserError("ROUGE needs a list of references for each prediction; got a text. Put it into a list.")
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise UserError(
            "ROUGE needs the package rouge-score; it is not installed. Run pip install -e '.[experiments]'."
        ) from error
    scorer = RougeScorer(list(_KINDS.values()), use_stemmer=stem)
    found: dict[str, list[float]] = {}
    for prediction, texts in zip(predictions, references, strict=True):
        scores = [scorer.score(text, prediction) for text in texts]
        for name, kind in _KINDS.items():
            values = [score[kind].fmeasure for score in scores]
            found.setdefault(f"{name}_max", []).append(max(values))
            found.setdefault(f"{name}_mean", []).append(sum(values) / len(values))
    return {name: float(np.mean(values)) for name, values in found.items()}
