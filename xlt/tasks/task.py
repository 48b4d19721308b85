"""What the engine asks of a task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from xlt.data.encoding import Encoder
from xlt.data.examples import Example
from xlt.data.mix import Features
from xlt.models.transfer import TransferModel

Tensors = Mapping[str, Tensor]


class Decisions(NamedTuple):
    """Choices of one kind that a model makes in a batch.

    Attributes:
        logits: (decisions, choices), -inf for what cannot be chosen.
        row: (decisions,) int64, the row of the batch that each belongs to.
        weight: of the kind in the task's loss.
    """

    logits: Tensor
    row: Tensor
    weight: float = 1.0


class Task(ABC):
    """Features, head, loss and metric of one task.

    Attributes:
        name: as in `conf/task`.
        metric: the one that selects checkpoints and fills tables.
        greater_is_better: whether more of it is better.
        max_length: longest sequence in tokens, special tokens included.
        needs_lm_head: whether the pre-trained language-model head is used.
        adapts_language: whether it leaves language modules, which other tasks build on, not task modules.
        continues_text: whether its model goes on with a text, so that benchmarks of causal language models can be run.
        has_head: whether the task has a `head` of its own.
        decides: whether it has `decisions`, which a teacher can guide.
        translates: whether it can `translate`.
    """

    name: str
    metric: str
    greater_is_better: bool = True
    max_length: int
    needs_lm_head: bool = False
    adapts_language: bool = False
    continues_text: bool = False
    has_head: bool = False
    decides: bool = False
    translates: bool = False

    def __init_subclass__(cls, **options: Any) -> None:
        """Notes which of the optional parts a task has."""
        super().__init_subclass__(**options)
        cls.has_head = cls.head is not Task.head
        cls.decides = cls.decisions is not Task.decisions
        cls.translates = cls.translate is not Task.translate

    @classmethod
    def name_of(cls, config: Any) -> str:
        """The name of a task with these settings: their `name` if they have one, else the class's."""
        return str(getattr(config, "name", None) or cls.name)

    @abstractmethod
    def check(self, examples: Sequence[Example], source: str) -> None:
        """Refuses examples the task cannot use, before any model is loaded; UsageError names the place."""

    @abstractmethod
    def features(self, examples: Sequence[Example], encoder: Encoder) -> list[Features]:
        """Model inputs; an example may become several, or several one.

        A row is a dict of names to ints, strings or lists of them, the same names in every row; `input_ids` is one.
        A row that says in `example` (an int) which of the examples it is of keeps it, numbered through the source.
        In evaluation over several sources it becomes a pair, (number of the source, number of the example).
        """

    def head(self, hidden_size: int) -> nn.Module | None:
        """The task's own head, drawn from torch's current random state; None where it needs none."""
        return None

    @abstractmethod
    def collate(self, features: Sequence[Features], encoder: Encoder, generator: torch.Generator) -> dict[str, Tensor]:
        """One padded batch; `generator` serves whatever is drawn at random (masking)."""

    @abstractmethod
    def targets(self, batch: Tensors) -> int:
        """Number of predictions the loss is summed over; a step's loss is divided by the sum over its batches."""

    @abstractmethod
    def loss(self, model: TransferModel, batch: Tensors) -> Tensor:
        """Sum of the losses of all targets, float32 scalar."""

    def decisions(self, model: TransferModel, batch: Tensors) -> list[Decisions]:
        """What the loss judges, by kind and in an order that only the batch decides: a teacher's match a student's."""
        raise NotImplementedError(f"task {self.name} makes no decisions that a teacher could guide")

    def translate(
        self, model: TransferModel, encoder: Encoder, texts: Sequence[str], languages: tuple[str, str], beams: int
    ) -> list[str]:
        """Translates texts in one batch.

        Args:
            model: in evaluation mode.
            encoder: the tokenizer.
            texts: in one language.
            languages: ISO 639-3 codes, from which and into which.
            beams: hypotheses kept in beam search; 1: greedy.
        Raises:
            UsageError: the model does not know a language.
        """
        raise NotImplementedError(f"task {self.name} does not translate")

    def check_languages(self, encoder: Encoder, languages: Sequence[str]) -> None:
        """Refuses, before a model is loaded, a language that `translate` cannot be told; UsageError names it."""
        raise NotImplementedError(f"task {self.name} does not translate")

    @abstractmethod
    def score(self, model: TransferModel, batch: Tensors, rows: Sequence[Features]) -> Any:
        """What `metrics` needs to know of one batch; `rows`: the features that it was collated from, in order."""

    @abstractmethod
    def metrics(self, scores: Sequence[Any]) -> dict[str, float]:
        """The metrics over all batches; accuracies and F1 in percent."""

    def chat_template(self) -> str | None:
        """The Jinja template that the task writes conversations by; None: the tokenizer's own, or no conversations."""
        return None

    def labels(self) -> list[str]:
        """The label inventory a head was trained for, kept in its module; empty without one."""
        return []


def pad(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Rows of unequal length -> (rows, longest) int64, filled up with `value` on the right."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])
