"""Word-level tagging (POS, NER, locale fields), with a single-layer head on a piece of each word (thesis §4.4.3)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from xlt.config import QUOTE_IT, key
from xlt.data.encoding import Encoder
from xlt.data.examples import Example
from xlt.data.mix import Features
from xlt.errors import UsageError
from xlt.models.transfer import TransferModel
from xlt.tasks.task import Annotation, Decisions, Task, Tensors, pad


@dataclass
class TaggingConfig:
    """Settings of word-level tagging."""

    _target_: str = "xlt.tasks.tagging.Tagging"
    name: str = key("name of the task in tables and module files", name=True)
    column: str = key("the source's column with the labels")
    labels: list[Any] = key("all labels; any other label in the data is an error", name=True)
    max_length: int = key("maximum length of a window, in tokens; longer sentences are cut between words", low=8)
    dropout: float = key("dropout probability before the head", low=0, high=0.9)
    metric: str = key(
        "the metric that selects checkpoints: accuracy of words, or f1 of entities (labels in IOB2)",
        choices=("accuracy", "f1"),
    )

    def faults(self, prefix: str) -> Iterator[str]:
        for number, label in enumerate(self.labels):
            if isinstance(label, bool):
                yield f"{prefix}.labels[{number}]={label}: {QUOTE_IT}"
        if self.metric != "f1":
            return
        for label in map(str, self.labels):
            begins = label.startswith("B-") or (label.startswith("I-") and f"B-{label[2:]}" in self.labels)
            if label != "O" and not begins:
                yield f"{prefix}.labels: {label!r} is not IOB2 (O, B-type, I-type with B-type), which metric f1 needs"


SCHEMA = TaggingConfig


class TaggingHead(nn.Module):
    """A head of dropout and one linear layer, (..., hidden) -> (..., labels)."""

    def __init__(self, hidden_size: int, labels: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden_size, labels)
        nn.init.normal_(self.classifier.weight, std=0.02)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.classifier(self.dropout(hidden))


class Window(NamedTuple):
    """The gold and predicted labels of a part of a sentence.

    Attributes:
        example: number of the sentence.
        number: of the window within the sentence.
        gold, predicted: numbers of the labels, one per word.
    """

    example: Any
    number: int
    gold: list[int]
    predicted: list[int]


class Tagging(Task):
    """The task of predicting one label per word, from the word's first piece; in a decoder from its last one.

    A decoder's first piece has not seen the rest of the word. Of an encoder-decoder the task uses the encoder alone.

    A sentence longer than `max_length` is cut between words into several windows, so that every word is predicted. The
    windows are joined before scoring, because an entity can extend over two of them.

    Metrics: accuracy over words, or F1 over entities. F1 is the micro-average over entities, which are equal if type,
    first and last word are. Entities are read as conlleval and seqeval's default mode read them: an I- label that does
    not continue an entity of its type begins one.
    """

    def __init__(self, name: str, column: str, labels: list[str], max_length: int, dropout: float, metric: str) -> None:
        self.name, self.column, self.max_length, self.dropout = name, column, max_length, dropout
        self.metric = metric
        self._labels = [str(label) for label in labels]
        self.entity_column = column if "O" in self._labels and all(map(_is_iob2, self._labels)) else None
        self._index = {label: number for number, label in enumerate(self._labels)}

    @property
    def reads(self) -> tuple[str, ...]:
        return ("words",)

    def labels(self) -> list[str]:
        return self._labels

    def check(self, examples: Sequence[Example], source: str) -> None:
        for example in examples:
            tags = example.columns.get(self.column)
            if tags is None:
                raise UsageError(
                    f"{example.place}: there is no column {self.column}, which task {self.name} needs; check {source}"
                )
            for tag in tags:
                if tag not in self._index:
                    known = " ".join(self._labels)
                    plain = f"B-{tag}" in self._index
                    hint = "; if the tags have no B- and I-, give the source scheme=IO" if plain else ""
                    raise UsageError(f"{example.place}: label {tag!r} is not in task.labels ({known}){hint}")

    def features(self, examples: Sequence[Example], encoder: Encoder) -> list[Features]:
        room = encoder.room(self.max_length)
        pieces = encoder.words([example.words or () for example in examples], [example.text for example in examples])
        result: list[Features] = []
        for number, (example, words) in enumerate(zip(examples, pieces, strict=True)):
            windows: list[Features] = []
            ids: list[int] = []
            first: list[int] = []
            last: list[int] = []
            tags: list[int] = []
            for word, tag in zip(words, example.columns[self.column], strict=True):
                word_ids = word[:room]  # a word longer than a window keeps its beginning
                if ids and len(ids) + len(word_ids) > room:
                    windows.append(self._window(ids, first, last, tags, encoder))
                    ids, first, last, tags = [], [], [], []
                first.append(len(ids) + len(encoder.prefix))
                tags.append(self._index[tag])
                ids = [*ids, *word_ids]
                last.append(len(ids) + len(encoder.prefix) - 1)
            windows.append(self._window(ids, first, last, tags, encoder))
            result += [row | {"example": number, "window": at} for at, row in enumerate(windows)]
        return result

    def head(self, hidden_size: int) -> nn.Module:
        return TaggingHead(hidden_size, len(self._labels), self.dropout)

    def collate(self, features: Sequence[Features], encoder: Encoder, generator: torch.Generator) -> dict[str, Tensor]:
        return {
            "input_ids": pad([item["input_ids"] for item in features], encoder.pad_id),
            "attention_mask": pad([[1] * len(item["input_ids"]) for item in features], 0),
            "labels": pad([item["labels"] for item in features], -100),
            "last_labels": pad([item["last_labels"] for item in features], -100),
        }

    def targets(self, batch: Tensors) -> int:
        return int((batch["labels"] != -100).sum())

    def loss(self, model: TransferModel, batch: Tensors) -> Tensor:
        logits, labels = self._logits(model, batch)
        return functional.cross_entropy(logits.float(), labels, reduction="sum")

    def decisions(self, model: TransferModel, batch: Tensors) -> list[Decisions]:
        return [Decisions(self._logits(model, batch)[0], (batch["labels"] != -100).nonzero()[:, 0])]

    def blank(self, example: Example) -> Example:
        return replace(example, columns={self.column: (self._labels[0],) * len(example.words or ())})

    def predict(
        self, model: TransferModel, batch: Tensors, rows: Sequence[Features]
    ) -> list[tuple[list[int], list[float]]]:
        """Returns for each row the numbers of its words' labels, and their probabilities."""
        logits, _ = self._logits(model, batch)
        probabilities = logits.float().softmax(-1).amax(-1)
        words = (batch["labels"] != -100).sum(1).tolist()
        parts = (part.cpu().split(words) for part in (logits.argmax(-1), probabilities))
        return [(row.tolist(), scores.tolist()) for row, scores in zip(*parts, strict=True)]

    def compare(
        self, predicted: Sequence[tuple[list[int], list[float]]], batch: Tensors, rows: Sequence[Features]
    ) -> list[Window]:
        gold = batch["labels"].cpu()
        return [
            Window(row["example"], row["window"], row_gold[row_gold != -100].tolist(), row_predicted)
            for row, row_gold, (row_predicted, _) in zip(rows, gold, predicted, strict=True)
        ]

    def annotate(self, rows: Sequence[Features], predicted: Sequence[tuple[list[int], list[float]]]) -> Annotation:
        labels = [self._labels[number] for numbers, _ in predicted for number in numbers]
        return Annotation({self.column: labels}, scores={self.column: [one for _, part in predicted for one in part]})

    def metrics(self, scores: Sequence[list[Window]]) -> dict[str, float]:
        windows: dict[Any, list[Window]] = defaultdict(list)
        for window in sorted((window for batch in scores for window in batch), key=lambda window: window.number):
            windows[window.example].append(window)
        gold = [[self._labels[n] for window in parts for n in window.gold] for parts in windows.values()]
        predicted = [[self._labels[n] for window in parts for n in window.predicted] for parts in windows.values()]
        words = sum(map(len, gold))
        right = sum(a == b for pair in zip(gold, predicted, strict=True) for a, b in zip(*pair, strict=True))
        entities = entity_scores(gold, predicted) if self.metric == "f1" else {}
        return {**entities, "accuracy": 100 * right / max(words, 1), "words": float(words)}

    def _logits(self, model: TransferModel, batch: Tensors) -> tuple[Tensor, Tensor]:
        hidden = model.encode(batch["input_ids"], batch["attention_mask"])
        labels = batch["last_labels" if model.causal else "labels"]
        return self.head_of(model)(hidden[labels != -100]), labels[labels != -100]

    @staticmethod
    def _window(ids: list[int], first: list[int], last: list[int], tags: list[int], encoder: Encoder) -> Features:
        """Returns a row; its `labels` are at the words' first and its `last_labels` at their last pieces, else -100."""
        wrapped = encoder.wrap(ids)
        labels, last_labels = [-100] * len(wrapped), [-100] * len(wrapped)
        for start, end, tag in zip(first, last, tags, strict=True):
            labels[start] = last_labels[end] = tag
        return {"input_ids": wrapped, "labels": labels, "last_labels": last_labels}


def _is_iob2(label: str) -> bool:
    return label == "O" or label.startswith(("B-", "I-"))


def entity_scores(gold: list[list[str]], predicted: list[list[str]]) -> dict[str, float]:
    """Computes micro-averaged f1, precision and recall of entities, in percent; 0 where the denominator is 0.

    Args:
        gold, predicted: IOB2 labels of every sentence.
    """
    from seqeval.metrics.sequence_labeling import precision_recall_fscore_support
    from seqeval.metrics.v1 import precision_recall_fscore_support as strict_scores
    from seqeval.scheme import IOB2

    precision, recall, f1, _ = precision_recall_fscore_support(gold, predicted, average="micro", zero_division=0)
    *_, strict_f1, _ = strict_scores(gold, predicted, average="micro", zero_division=0, scheme=IOB2)
    return {
        "f1": 100 * float(f1),
        "precision": 100 * float(precision),
        "recall": 100 * float(recall),
        "strict_f1": 100 * float(strict_f1),
    }
