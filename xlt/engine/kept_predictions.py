"""Keeps the predictions of an evaluation, so that errors can be read: a record for each example, gold and predicted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from xlt.data.examples import Example
from xlt.data.mix import Features
from xlt.tasks.task import Annotation, Task


class KeptPredictions:
    """Collects the predictions of an evaluation of one source; its `keep` is that of `evaluate`.

    Args:
        task: one that compares its predictions with the labels.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._rows: dict[int, list[tuple[Features, Any]]] = defaultdict(list)

    def keep(self, rows: Sequence[Features], predicted: Sequence[Any]) -> None:
        """Keeps the predictions for the rows of a batch."""
        for row, one in zip(rows, predicted, strict=True):
            self._rows[row["example"][1]].append((row, one))

    def records(self, examples: Iterable[Example]) -> Iterator[dict[str, Any]]:
        """Yields a record for each example that was evaluated: its text, `gold`, `predicted`, and whether they agree.

        Args:
            examples: of the source, in order.
        """
        for number, example in enumerate(examples):
            parts = sorted(self._rows.get(number, ()), key=lambda part: part[0].get("window", part[0].get("start", 0)))
            if parts:
                annotation = self._task.annotate([row for row, _ in parts], [one for _, one in parts])
                yield _record(example, annotation)


def _record(example: Example, annotation: Annotation) -> dict[str, Any]:
    gold: Any
    predicted: Any
    if annotation.columns:
        gold = {name: list(example.columns[name]) for name in annotation.columns}
        predicted = {name: list(labels) for name, labels in annotation.columns.items()}
    elif annotation.label is not None:
        gold, predicted = example.label, annotation.label
    else:
        gold = [answer.text for answer in example.answers] or example.pair
        predicted = annotation.text
    texts = {"text": example.text, "pair": example.pair, "words": None if example.words is None else [*example.words]}
    if not annotation.columns and not example.answers and annotation.text is not None:
        del texts["pair"]  # it is the reference
    right = predicted in gold if isinstance(gold, list) else predicted == gold
    return {
        "place": example.place,
        **({} if example.id is None else {"id": example.id}),
        **{name: value for name, value in texts.items() if value is not None},
        **({"choices": list(example.choices)} if example.choices else {}),
        "gold": gold,
        "predicted": predicted,
        "right": right,
    }
