"""Multiple choice: the right one of several answers to a question about a passage, as in Belebele and RACE."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from xlt.config import key
from xlt.data.encoding import Encoder
from xlt.data.examples import Example
from xlt.data.mix import Features
from xlt.errors import UsageError
from xlt.models.transfer import TransferModel
from xlt.tasks.task import Annotation, Task, Tensors


@dataclass
class MultipleChoiceConfig:
    """Settings of multiple choice."""

    _target_: str = "xlt.tasks.multiple_choice.MultipleChoice"
    name: str = key("name of the task in tables and module files")
    max_length: int = key("maximum length of an input, in tokens; the end of the passage is cut first", low=8)
    dropout: float = key("dropout probability before the head", low=0, high=0.9)

    def faults(self, prefix: str) -> Iterator[str]:
        if not self.name:
            yield f"{prefix}.name: empty; give a name"


SCHEMA = MultipleChoiceConfig


class ChoiceHead(nn.Module):
    """A head of dropout and one linear layer that scores an answer, (..., hidden) -> (...)."""

    def __init__(self, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.scorer = nn.Linear(hidden_size, 1)
        nn.init.normal_(self.scorer.weight, std=0.02)
        nn.init.zeros_(self.scorer.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.scorer(self.dropout(hidden)).squeeze(-1)


class MultipleChoice(Task):
    """The task of choosing an answer.

    An input is the passage, paired with the question and one answer. Each answer is scored from the position that has
    seen all of it ([CLS], <s>, the last token of a decoder), and the loss is the cross-entropy of a softmax over the
    answers of a question (BERT's SWAG model, Devlin et al., 2019; Belebele's paper fine-tunes encoders so). A row of
    features holds all answers of a question: `input_ids` is their inputs one after the other, `lengths` says how long
    each is.

    Metrics: accuracy in percent, and `chance`, what guessing would score.
    """

    metric = "accuracy"

    def __init__(self, name: str, max_length: int, dropout: float) -> None:
        self.name, self.max_length, self.dropout = name, max_length, dropout

    @property
    def reads(self) -> tuple[str, ...]:
        return ("text", "pair", "choices")

    def check(self, examples: Sequence[Example], source: str) -> None:
        for example in examples:
            missing = "passage" if example.text is None else "question" if example.pair is None else None
            if missing is not None:
                raise UsageError(
                    f"{example.place}: there is no {missing}, which task {self.name} needs; check {source}"
                )
            count = len(example.choices)
            if count < 2:
                raise UsageError(
                    f"{example.place}: there are {count} answers, but task {self.name} needs two or more; "
                    f"give {source}.fields.choice_1 and so on"
                )
            if not all(choice.strip() for choice in example.choices):
                empty = next(number for number, choice in enumerate(example.choices, 1) if not choice.strip())
                raise UsageError(f"{example.place}: answer {empty} is empty")
            numbers = [str(number) for number in range(1, count + 1)]
            if example.label not in numbers:
                raise UsageError(
                    f"{example.place}: label {example.label!r} is not the number of an answer (1 to {count}); "
                    f"if answers have other labels, give {source}.labels, for instance {{A: 1, B: 2}}"
                )

    def features(self, examples: Sequence[Example], encoder: Encoder) -> list[Features]:
        texts = [str(example.text) for example in examples for _ in example.choices]
        asked = [f"{example.pair} {choice}" for example in examples for choice in example.choices]
        pairs = encoder.pairs(texts, asked, self.max_length)
        inputs = [encoder.pair_inputs(*pair) for pair in pairs]
        cut = [len(second) < len(whole) for (_, second), whole in zip(pairs, encoder.lines(asked), strict=True)]
        rows: list[Features] = []
        at = 0
        for example in examples:
            own = inputs[at : at + len(example.choices)]
            if any(cut[at : at + len(example.choices)]):
                raise UsageError(
                    f"{example.place}: task.max_length={self.max_length} cuts an answer off; choose a greater length"
                )
            at += len(example.choices)
            row: Features = {name: [token for one in own for token in one[name]] for name in own[0]}
            rows.append(row | {"lengths": [len(one["input_ids"]) for one in own], "label": int(str(example.label)) - 1})
        return rows

    def head(self, hidden_size: int) -> nn.Module:
        return ChoiceHead(hidden_size, self.dropout)

    def collate(self, features: Sequence[Features], encoder: Encoder, generator: torch.Generator) -> dict[str, Tensor]:
        """Makes a batch with a row for each question: inputs are (questions, most answers, longest) int64."""
        choices = torch.tensor([len(row["lengths"]) for row in features])
        there = torch.arange(int(choices.max())) < choices[:, None]
        batch = {}
        for name, inputs in encoder.batch([part for row in features for part in _parts(row)]).items():
            batch[name] = inputs.new_zeros(*there.shape, inputs.shape[1])
            batch[name][there] = inputs
        return batch | {"choices": choices, "labels": torch.tensor([row["label"] for row in features])}

    def targets(self, batch: Tensors) -> int:
        return len(batch["labels"])

    def loss(self, model: TransferModel, batch: Tensors) -> Tensor:
        return functional.cross_entropy(self._logits(model, batch).float(), batch["labels"], reduction="sum")

    def blank(self, example: Example) -> Example:
        return replace(example, label="1")

    def predict(self, model: TransferModel, batch: Tensors, rows: Sequence[Features]) -> list[tuple[int, list[float]]]:
        """Returns for each question the number of its answer, from 0, and the probabilities of its answers."""
        logits = self._logits(model, batch)
        counts, probabilities = batch["choices"].tolist(), logits.float().softmax(-1).tolist()
        numbers = logits.argmax(-1).tolist()
        return [(number, of[:count]) for number, of, count in zip(numbers, probabilities, counts, strict=True)]

    def compare(
        self, predicted: Sequence[tuple[int, list[float]]], batch: Tensors, rows: Sequence[Features]
    ) -> tuple[int, int, float]:
        right = sum(number == gold for (number, _), gold in zip(predicted, batch["labels"].tolist(), strict=True))
        return right, len(rows), sum(1 / len(row["lengths"]) for row in rows)

    def annotate(self, rows: Sequence[Features], predicted: Sequence[tuple[int, list[float]]]) -> Annotation:
        ((number, probabilities),) = predicted
        return Annotation(label=str(number + 1), scores={str(at): one for at, one in enumerate(probabilities, start=1)})

    def metrics(self, scores: Sequence[tuple[int, int, float]]) -> dict[str, float]:
        right, questions, guessed = (sum(column) for column in zip(*scores, strict=True))
        return {"accuracy": 100 * right / questions, "chance": 100 * guessed / questions}

    def _logits(self, model: TransferModel, batch: Tensors) -> Tensor:
        """Returns (questions, most answers) scores; those of answers that a question does not have are -inf."""
        choices = batch["choices"]
        there = torch.arange(batch["input_ids"].shape[1], device=choices.device) < choices[:, None]
        inputs = {
            name: batch[name][there] for name in ("input_ids", "attention_mask", "token_type_ids") if name in batch
        }
        hidden = model.encode(**inputs)
        logits = hidden.new_full(there.shape, -torch.inf)
        texts = torch.arange(len(hidden), device=hidden.device)
        scores = self.head_of(model)(hidden[texts, model.whole_text(inputs["attention_mask"])])
        logits[there] = scores.to(logits.dtype)
        return logits


def _parts(row: Features) -> Iterator[Features]:
    """Yields the inputs of a row's answers, with those names that tokens have."""
    names = [name for name in ("input_ids", "token_type_ids") if name in row]
    at = 0
    for length in row["lengths"]:
        yield {name: row[name][at : at + length] for name in names}
        at += length
