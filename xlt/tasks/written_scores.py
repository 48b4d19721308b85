"""Scores of texts that a model wrote, against the texts that are right: F1 of entities, of answers, and equality."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from xlt.data.entities import parsed
from xlt.tasks.question_answering import answer_tokens, overlap_f1
from xlt.tasks.translation import corpus_chrf

Written = tuple[str, list[str]]
"""A text that the model wrote, and all texts that are right."""


def entity_scores(pairs: Sequence[Written]) -> dict[str, float]:
    """Computes F1, precision and recall of entities over all texts together.

    An entity is right if one of the right text's has its label and its text. Each of these counts once, so a text that
    is named twice has to be written twice (XTREME-UP's span F1).
    """
    found = wanted = shared = 0
    for text, right in pairs:
        ours, theirs = Counter(parsed(text)), Counter(parsed(right[0]))
        found, wanted, shared = found + ours.total(), wanted + theirs.total(), shared + (ours & theirs).total()
    return {
        "f1": 200 * shared / max(found + wanted, 1),
        "precision": 100 * shared / max(found, 1),
        "recall": 100 * shared / max(wanted, 1),
    }


def answer_scores(pairs: Sequence[Written]) -> dict[str, float]:
    """Computes the mean F1 of tokens and the share of equal answers, both as SQuAD v1.1 normalises them."""
    exact = f1 = 0.0
    for text, right in pairs:
        tokens, gold = answer_tokens(text, False), [answer_tokens(answer, False) for answer in right]
        exact += max(tokens == answer for answer in gold)
        f1 += max(overlap_f1(tokens, answer) for answer in gold)
    count = max(len(pairs), 1)
    return {"f1": 100 * f1 / count, "exact_match": 100 * exact / count}


def text_scores(pairs: Sequence[Written]) -> dict[str, float]:
    """Computes the share of texts that equal a right one, whatever their white space."""
    equal = sum(_squeezed(text) in map(_squeezed, right) for text, right in pairs)
    return {"exact_match": 100 * equal / max(len(pairs), 1)}


def label_scores(pairs: Sequence[Written]) -> dict[str, float]:
    """Computes the share of texts that equal the label, whatever their case and white space."""
    equal = sum(_squeezed(text).casefold() in (_squeezed(one).casefold() for one in right) for text, right in pairs)
    return {"accuracy": 100 * equal / max(len(pairs), 1)}


def translation_scores(pairs: Sequence[Written]) -> dict[str, float]:
    """Computes chrF++ over all texts together."""
    return {"chrf": corpus_chrf([text for text, _ in pairs], [right[0] for _, right in pairs])[0]}


SCORES: Mapping[str, tuple[str, Callable[[Sequence[Written]], dict[str, float]]]] = {
    "entities": ("f1", entity_scores),
    "answer": ("f1", answer_scores),
    "text": ("exact_match", text_scores),
    "label": ("accuracy", label_scores),
    "translation": ("chrf", translation_scores),
}
"""What texts are scored as -> the metric that selects checkpoints, and the function that computes all metrics."""


def _squeezed(text: str) -> str:
    return " ".join(text.split())
