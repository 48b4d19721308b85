"""The interface between the engine and a task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from xlt.data.encoding import Encoder
from xlt.data.examples import Example
from xlt.data.mix import Features
from xlt.models.transfer import TransferModel

Tensors = Mapping[str, Tensor]


class Decisions(NamedTuple):
    """The decisions of one kind that a model makes in a batch, such as the labels of words.

    Attributes:
        logits: (decisions, choices), -inf for impossible choices.
        row: (decisions,) int64, the row of the batch to which each belongs.
        weight: of this kind of decision in the task's loss.
    """

    logits: Tensor
    row: Tensor
    weight: float = 1.0


@dataclass(frozen=True)
class Annotation:
    """What a model predicts for an example.

    Attributes:
        columns: name of a word-level column -> a label for each word.
        label: of the whole example, or the number of the chosen answer, from 1.
        text: that the model writes: an answer, a translation, a completion.
        start: of an answer, the number of its first character (code point) in the context.
        scores: name of a column -> a probability for each word's label; label -> its probability; `answer` -> the sum
            of the logits of an answer's start and end.
    """

    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    label: str | None = None
    text: str | None = None
    start: int | None = None
    scores: Mapping[str, Any] = field(default_factory=dict)


class Task(ABC):
    """A task: it defines features, head, loss and metrics.

    Attributes:
        name: as in `conf/task`.
        metric: the metric that selects checkpoints and that tables show.
        greater_is_better: whether a greater value of this metric is better.
        max_length: maximum length of a sequence in tokens, including special tokens.
        needs_lm_head: whether the task uses the pre-trained language-model head.
        adapts_language: whether its runs train language modules, on which other tasks build, and not task modules.
        validates_at_random: whether `collate` draws at random also in evaluation; the size of the batches counts then.
        continues_text: whether its model continues a text, so that benchmarks of causal language models can be run.
        has_head: whether the task has a `head` of its own.
        decides: whether the task has `decisions`, which distillation needs.
        translates: whether the task can translate texts.
        writes: whether `score` writes texts, token by token.
        compares: whether the task compares predictions with labels, so that those of an evaluation can be kept.
        predicts: whether the task can annotate examples without labels: it has `blank`, `predict` and `annotate`.
        entity_column: column of an example with tags of entities, which are converted to IOB2 when a source is read;
            None if the task has no entities.
        metric_range: least and greatest value of `metric`; None if it has no bounds.
        head_name: name of the task among those of several tasks in one run; None if the run has one task.
        joint: the several tasks together; None if the run has one task.
    """

    name: str
    metric: str
    greater_is_better: bool = True
    max_length: int
    needs_lm_head: bool = False
    adapts_language: bool = False
    validates_at_random: bool = False
    continues_text: bool = False
    has_head: bool = False
    decides: bool = False
    translates: bool = False
    writes: bool = False
    predicts: bool = False
    compares: bool = False
    entity_column: str | None = None
    metric_range: tuple[float, float] | None = (0.0, 100.0)
    head_name: str | None = None
    joint: Task | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        """The parts of an example that predictions are made from: of `words`, `text`, `pair`, `choices`, `turns`."""
        return ("text",)

    def architecture_fault(self, architecture: str) -> str | None:
        """Returns why models of an architecture cannot do the task, and what to take; None if they can.

        Args:
            architecture: `ENCODER`, `DECODER` or `ENCODER_DECODER` of `xlt.models.families`.
        """
        return None

    def check_tokenizer(self, encoder: Encoder) -> None:  # noqa: B027
        """Refuses a tokenizer that lacks what the task needs; called before a model is loaded.

        Raises:
            UsageError: the tokenizer lacks something; the message names it.
        """

    def __init_subclass__(cls, **options: Any) -> None:
        """Notes which of the optional parts a task has."""
        super().__init_subclass__(**options)
        cls.has_head = cls.head is not Task.head
        cls.decides = cls.decisions is not Task.decisions
        cls.translates = cls.translate is not Task.translate
        cls.predicts = cls.predict is not Task.predict
        cls.compares = cls.compare is not Task.compare

    @classmethod
    def name_of(cls, config: Any) -> str:
        """The name of a task with these settings: their `name` if they have one, else the class's."""
        return str(getattr(config, "name", None) or cls.name)

    @classmethod
    def configs(cls, config: Any) -> dict[str, Any]:
        """Returns name -> settings of each task of a run with these settings; a run of one task has one."""
        return {cls.name_of(config): config}

    @classmethod
    def selecting(cls, config: Any) -> list[str]:
        """Returns the names of the tasks whose metrics select the checkpoint of a run with these settings."""
        return list(cls.configs(config))

    def lengths(self) -> dict[str, int]:
        """Returns key of the config -> the maximum length that it gives, in tokens."""
        return {"task.max_length": self.max_length}

    def part(self, described: Mapping[str, str]) -> Task:
        """Returns the task of examples with these features: this one, or of several that which they name.

        Args:
            described: name -> value of the features of the examples.
        Raises:
            UsageError: they name none of several tasks.
        """
        return self

    def share(self, found: Mapping[str, float]) -> float:
        """Returns the metric that selects checkpoints as a share of its range: 0 is the worst value, 1 the best.

        Args:
            found: as `metrics` returns them.
        """
        assert self.metric_range is not None, f"metric {self.metric} has no range"
        low, high = self.metric_range
        share = (found[self.metric] - low) / (high - low)
        return share if self.greater_is_better else 1 - share

    def summary(self, means: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        """Returns the metrics of all validation data, among them the one that selects checkpoints.

        If the sources name several tasks, these are the means over tasks, and each task's own metrics as TASK/METRIC.

        Args:
            means: name of a task, as the sources' feature `task` -> its metrics, each a mean over its languages.
        """
        parts = list(means.values())
        if len(parts) == 1:
            return dict(parts[0])
        each = {f"{name}/{metric}": value for name, found in means.items() for metric, value in found.items()}
        return {metric: sum(found[metric] for found in parts) / len(parts) for metric in parts[0]} | each

    @abstractmethod
    def check(self, examples: Sequence[Example], source: str) -> None:
        """Refuses examples that the task cannot use; called before any model is loaded.

        Args:
            examples: of one source.
            source: config key of the source, for messages.
        Raises:
            UsageError: an example lacks something; the message names its file and place.
        """

    @abstractmethod
    def features(self, examples: Sequence[Example], encoder: Encoder) -> list[Features]:
        """Converts examples to rows of model inputs; one example can give several rows, or several examples one.

        A row is a dict from names to ints, strings or lists of these, with the same names in every row, among them
        `input_ids`. A row can have `example` (an int), the number of its example in the source. In evaluation over
        several sources the engine replaces it by the pair (number of the source, number of the example).
        """

    def head(self, hidden_size: int) -> nn.Module | None:
        """Returns a new head for the task, initialised from torch's current random state; None if it needs none."""
        return None

    def head_of(self, model: TransferModel) -> Any:
        """Returns the task's head in a model, which may have heads of other tasks."""
        head: Any = model.head
        assert head is not None, f"the model has no head for task {self.name}"
        return head if self.head_name is None else head[self.head_name]

    @abstractmethod
    def collate(self, features: Sequence[Features], encoder: Encoder, generator: torch.Generator) -> dict[str, Tensor]:
        """Makes one padded batch of rows; `generator` is for random draws such as masking."""

    @abstractmethod
    def targets(self, batch: Tensors) -> int:
        """Returns the number of predictions in the loss; a step's loss is divided by the sum over its batches."""

    @abstractmethod
    def loss(self, model: TransferModel, batch: Tensors) -> Tensor:
        """Returns the sum of the losses of all targets, a float32 scalar."""

    def decisions(self, model: TransferModel, batch: Tensors) -> list[Decisions]:
        """Returns the model's decisions that the loss evaluates, one element for each kind.

        Their order depends on the batch only, so that those of a teacher correspond to those of a student.
        """
        raise NotImplementedError(f"task {self.name} has no decisions, which distillation needs")

    def translate(
        self, model: TransferModel, encoder: Encoder, texts: Sequence[str], languages: tuple[str, str], beams: int
    ) -> list[str]:
        """Translates texts in one batch.

        Args:
            model: in evaluation mode.
            encoder: the tokenizer.
            texts: all in the source language.
            languages: ISO 639-3 codes of source and target language.
            beams: number of hypotheses in beam search; 1: greedy search.
        Raises:
            UsageError: the model has no token for a language.
        """
        raise NotImplementedError(f"task {self.name} does not translate")

    def check_languages(self, encoder: Encoder, languages: Sequence[str]) -> None:
        """Refuses languages that `translate` does not support; called before a model is loaded.

        Raises:
            UsageError: the model has no token for a language; the message names it.
        """
        raise NotImplementedError(f"task {self.name} does not translate")

    def blank(self, example: Example) -> Example:
        """Returns an example with placeholders for its labels, so that nothing of them can reach a prediction.

        The placeholders are such that `check` accepts them; it then checks what a prediction is made from.
        """
        raise NotImplementedError(f"task {self.name} predicts nothing")

    def inputs(self, examples: Sequence[Example], encoder: Encoder) -> list[Features]:
        """Converts examples without labels to rows, as `features` does."""
        return self.features([self.blank(example) for example in examples], encoder)

    def predict(self, model: TransferModel, batch: Tensors, rows: Sequence[Features]) -> list[Any]:
        """Returns the model's prediction for each row of a batch; it looks at no label."""
        raise NotImplementedError(f"task {self.name} predicts nothing")

    def compare(self, predicted: Sequence[Any], batch: Tensors, rows: Sequence[Features]) -> Any:
        """Compares the predictions for a batch with its labels; returns the facts that `metrics` needs."""
        raise NotImplementedError(f"task {self.name} predicts nothing")

    def annotate(self, rows: Sequence[Features], predicted: Sequence[Any]) -> Annotation:
        """Makes the annotation of an example from the predictions for its rows, which are in their order."""
        raise NotImplementedError(f"task {self.name} predicts nothing")

    def score(self, model: TransferModel, batch: Tensors, rows: Sequence[Features]) -> Any:
        """Returns the facts about one batch that `metrics` needs; `rows` are the batch's features in their order."""
        return self.compare(self.predict(model, batch, rows), batch, rows)

    @abstractmethod
    def metrics(self, scores: Sequence[Any]) -> dict[str, float]:
        """Computes the metrics over all batches; accuracies and F1 are in percent."""

    def signatures(self, rows: Sequence[Features]) -> dict[str, str]:
        """Returns metric -> how it is computed for these rows, where its name alone does not say it."""
        return {}

    def chat_template(self) -> str | None:
        """The Jinja template that the task writes conversations by; None: the tokenizer's own, or no conversations."""
        return None

    def labels(self) -> list[str]:
        """Returns all labels of the head in their order, which module files store; empty without labels."""
        return []


def pad(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Pads rows of unequal length on the right with `value`; returns (rows, longest) int64."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])
