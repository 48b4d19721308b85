"""Classification of a text or a pair of texts, with a two-layer head on one position (thesis §4.4.3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from xlt.config import QUOTE_IT, key
from xlt.data.encoding import Encoder
from xlt.data.examples import Example
from xlt.data.mix import Features
from xlt.errors import UsageError
from xlt.models.transfer import TransferModel
from xlt.tasks.task import Annotation, Decisions, Task, Tensors


@dataclass
class ClassificationConfig:
    """Settings of classification."""

    _target_: str = "xlt.tasks.classification.Classification"
    name: str = key("name of the task in tables and module files", name=True)
    labels: list[Any] = key("all labels; any other label in the data is an error", name=True)
    pair: bool = key("whether an example is a pair of texts")
    max_length: int = key("maximum length of an input, in tokens; the longer text of a pair is cut first", low=8)
    dropout: float = key("dropout probability before each layer of the head", low=0, high=0.9)
    metric: str = key("the metric that selects checkpoints", choices=("accuracy", "macro_f1"))

    def faults(self, prefix: str) -> Iterator[str]:
        if len(set(self.labels)) < max(2, len(self.labels)):
            yield f"{prefix}.labels={self.labels}: must be two or more labels, each listed once"
        for number, label in enumerate(self.labels):
            if isinstance(label, bool):
                yield f"{prefix}.labels[{number}]={label}: {QUOTE_IT}"


SCHEMA = ClassificationConfig


class ClassificationHead(nn.Module):
    """A head of dropout, a layer of the hidden size with tanh, dropout, and a linear layer.

    It maps (..., hidden) to (..., labels).
    """

    def __init__(self, hidden_size: int, labels: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.classifier = nn.Linear(hidden_size, labels)
        for layer in (self.dense, self.classifier):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        inner = torch.tanh(self.dense(self.dropout(hidden)))
        return self.classifier(self.dropout(inner))


class Classification(Task):
    """The task of predicting one label per example, from the representation of the whole text.

    That is the first position ([CLS], <s>) of an encoder, of an encoder-decoder's encoder alone, and the last token of
    a decoder, whose first position has seen nothing.

    Metrics: accuracy, and F1 averaged over the labels that occur among gold or predicted labels (scikit-learn's
    default, and NusaX's F1). A label that occurs in neither would otherwise count as F1 of zero.
    """

    def __init__(self, name: str, labels: list[str], pair: bool, max_length: int, dropout: float, metric: str) -> None:
        self.name, self.pair, self.max_length, self.dropout, self.metric = name, pair, max_length, dropout, metric
        self._labels = [str(label) for label in labels]
        self._index = {label: number for number, label in enumerate(self._labels)}

    @property
    def reads(self) -> tuple[str, ...]:
        return ("text", "pair") if self.pair else ("text",)

    def labels(self) -> list[str]:
        return self._labels

    def check(self, examples: Sequence[Example], source: str) -> None:
        for example in examples:
            missing = "text" if example.text is None else "second text" if self.pair and example.pair is None else None
            if missing is not None:
                raise UsageError(
                    f"{example.place}: there is no {missing}, which task {self.name} needs; check {source}"
                )
            if not self.pair and example.pair is not None:
                raise UsageError(
                    f"{example.place}: there is a pair of texts, but task {self.name} has task.pair=false; "
                    f"check {source} or set task.pair=true"
                )
            if example.label is None:
                raise UsageError(f"{example.place}: there is no label, which task {self.name} needs; check {source}")
            if example.label not in self._index:
                known = " ".join(self._labels)
                raise UsageError(f"{example.place}: label {example.label!r} is not in task.labels ({known})")

    def features(self, examples: Sequence[Example], encoder: Encoder) -> list[Features]:
        texts = [str(example.text) for example in examples]
        labels = [{"label": self._index[str(example.label)]} for example in examples]
        if not self.pair:
            room = encoder.room(self.max_length)
            lines = encoder.lines(texts)
            return [{"input_ids": encoder.wrap(ids[:room])} | label for ids, label in zip(lines, labels, strict=True)]
        pairs = encoder.pairs(texts, [str(example.pair) for example in examples], self.max_length)
        return [encoder.pair_inputs(*pair) | label for pair, label in zip(pairs, labels, strict=True)]

    def head(self, hidden_size: int) -> nn.Module:
        return ClassificationHead(hidden_size, len(self._labels), self.dropout)

    def collate(self, features: Sequence[Features], encoder: Encoder, generator: torch.Generator) -> dict[str, Tensor]:
        return encoder.batch(features) | {"labels": torch.tensor([item["label"] for item in features])}

    def targets(self, batch: Tensors) -> int:
        return len(batch["labels"])

    def loss(self, model: TransferModel, batch: Tensors) -> Tensor:
        return functional.cross_entropy(self._logits(model, batch).float(), batch["labels"], reduction="sum")

    def decisions(self, model: TransferModel, batch: Tensors) -> list[Decisions]:
        logits = self._logits(model, batch)
        return [Decisions(logits, torch.arange(len(logits), device=logits.device))]

    def blank(self, example: Example) -> Example:
        return replace(example, label=self._labels[0])

    def predict(self, model: TransferModel, batch: Tensors, rows: Sequence[Features]) -> list[tuple[int, list[float]]]:
        """Returns for each row the number of its label, and the probabilities of all labels."""
        logits = self._logits(model, batch)
        return list(zip(logits.argmax(-1).tolist(), logits.float().softmax(-1).tolist(), strict=True))

    def compare(
        self, predicted: Sequence[tuple[int, list[float]]], batch: Tensors, rows: Sequence[Features]
    ) -> tuple[list[int], list[int]]:
        return batch["labels"].tolist(), [number for number, _ in predicted]

    def annotate(self, rows: Sequence[Features], predicted: Sequence[tuple[int, list[float]]]) -> Annotation:
        ((number, probabilities),) = predicted
        return Annotation(label=self._labels[number], scores=dict(zip(self._labels, probabilities, strict=True)))

    def metrics(self, scores: Sequence[tuple[list[int], list[int]]]) -> dict[str, float]:
        from sklearn.metrics import accuracy_score, f1_score

        gold, predicted = ([label for batch in column for label in batch] for column in zip(*scores, strict=True))
        return {
            "accuracy": 100 * float(accuracy_score(gold, predicted)),
            "macro_f1": 100 * float(f1_score(gold, predicted, average="macro", zero_division=0)),
        }

    def _logits(self, model: TransferModel, batch: Tensors) -> Tensor:
        hidden = model.encode(batch["input_ids"], batch["attention_mask"], batch.get("token_type_ids"))
        rows = torch.arange(len(hidden), device=hidden.device)
        return self.head_of(model)(hidden[rows, model.whole_text(batch["attention_mask"])])
