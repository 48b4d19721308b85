"""Distillation: training a student to compute what its teacher computes (thesis §5.3.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from xlt_kernels.attention_maps import AttentionInputs, map_distance, map_distance_definition

from xlt.data.encoding import Encoder
from xlt.data.examples import Example
from xlt.data.mix import Features
from xlt.models.student import Widening, count_blocks, kept_blocks
from xlt.models.tracing import Trace, Tracer
from xlt.models.transfer import TransferModel
from xlt.tasks.task import Decisions, Task, Tensors

ATTENTION, HIDDEN, PREDICTION = "attention", "hidden", "prediction"


class Distillation(Task):
    """A task whose loss is the distance between student and teacher; data, head and metric are those of another task.

    The loss of a sequence is the sum of the selected losses: Eq. 5.1 (attention, over heads and pairs of real
    positions), Eq. 5.2 (hidden states, over real positions) and Eq. 5.3 (cross-entropy of the teacher's and the
    student's label distributions, the mean over the sequence's decisions, separately for each kind of decision). The
    loss of a batch is the mean over its sequences.

    In the first stage (§5.3.2), without the prediction loss, nothing is learned about labels. The loss itself selects
    checkpoints, and no head is evaluated. In the second stage (§5.3.3), with the prediction loss, the task's metric
    selects them.

    For a narrower student a matrix maps its hidden states to the teacher's size (Mukherjee and Awadallah 2020; the
    thesis has no equation for it, §8.2, footnote 2). The first stage learns this matrix as the model's head; the second
    does not change it.

    Args:
        task: that the student learns.
        teacher: in evaluation mode, with its modules applied; it gets no gradients.
        student_layers: number of the student's blocks, a divisor of the teacher's.
        pieces: (student's tokens,) int64, the teacher's id of each token.
        losses: some of ATTENTION, HIDDEN, PREDICTION.
        widening: of a narrower student, from the first stage; None if the student's head is the widening.
    """

    def __init__(
        self,
        task: Task,
        teacher: TransferModel,
        student_layers: int,
        pieces: Tensor,
        losses: Sequence[str],
        widening: Widening | None = None,
    ) -> None:
        self._task, self.teacher, self._losses = task, teacher, tuple(losses)
        layers = count_blocks(teacher)
        self._pieces = pieces.to(teacher.device)
        self._teacher_tracer = Tracer(teacher, kept_blocks(layers, layers // student_layers) if self._traces else [])
        self._student: TransferModel | None = None
        self._widening = widening
        self.name, self.max_length, self.needs_lm_head = task.name, task.max_length, task.needs_lm_head
        self._selects_by_task = PREDICTION in losses
        self.metric = task.metric if self._selects_by_task else "loss"
        self.greater_is_better = task.greater_is_better if self._selects_by_task else False

    def check(self, examples: Sequence[Example], source: str) -> None:
        self._task.check(examples, source)

    def features(self, examples: Sequence[Example], encoder: Encoder) -> list[Features]:
        return self._task.features(examples, encoder)

    def head(self, hidden_size: int) -> nn.Module | None:
        return self._task.head(hidden_size)

    def collate(self, features: Sequence[Features], encoder: Encoder, generator: torch.Generator) -> dict[str, Tensor]:
        return self._task.collate(features, encoder, generator)

    def labels(self) -> list[str]:
        return self._task.labels()

    def targets(self, batch: Tensors) -> int:
        return len(batch["input_ids"])

    def loss(self, model: TransferModel, batch: Tensors) -> Tensor:
        return torch.stack([part.sum() for part in self.losses(model, batch).values()]).sum()

    def losses(self, model: TransferModel, batch: Tensors) -> dict[str, Tensor]:
        """Computes the selected losses; returns name -> (rows,), in float32 or wider."""
        with torch.no_grad():
            teacher_trace, teacher_decisions = self._pass(self.teacher, self._teacher_tracer, self._for_teacher(batch))
        trace, decisions = self._pass(model, self._tracer_of(model), batch)
        real = batch["attention_mask"].bool()
        losses = {}
        if ATTENTION in self._losses:
            losses[ATTENTION] = attention_loss(trace, teacher_trace, real)
        if HIDDEN in self._losses:
            widened = [self._widen(model, state) for state in trace.hidden]
            losses[HIDDEN] = hidden_loss(Trace(widened), teacher_trace, real)
        if PREDICTION in self._losses:
            losses[PREDICTION] = prediction_loss(decisions, teacher_decisions, len(real))
        return losses

    def score(self, model: TransferModel, batch: Tensors, rows: Sequence[Features]) -> Any:
        if self._selects_by_task:
            return self._task.score(model, batch, rows)
        return len(rows), {name: float(part.detach().sum()) for name, part in self.losses(model, batch).items()}

    def metrics(self, scores: Sequence[Any]) -> dict[str, float]:
        if self._selects_by_task:
            return self._task.metrics(scores)
        count = sum(rows for rows, _ in scores)
        means = {name: sum(part[name] for _, part in scores) / count for name in scores[0][1]}
        return {"loss": sum(means.values()), **means}

    @property
    def _traces(self) -> bool:
        return ATTENTION in self._losses or HIDDEN in self._losses

    def _pass(self, model: TransferModel, tracer: Tracer, batch: Tensors) -> tuple[Trace, list[Decisions]]:
        """Runs one pass; the heads run only if the decisions are compared."""
        with tracer.watch() as trace:
            if PREDICTION in self._losses:
                return trace, self._task.decisions(model, batch)
            model.encode(batch["input_ids"], batch["attention_mask"], batch.get("token_type_ids"))
            return trace, []

    def _widen(self, model: TransferModel, hidden: Tensor) -> Tensor:
        if hidden.shape[-1] == self.teacher.hidden_size:
            return hidden
        widening = self._widening if self._widening is not None else model.head
        assert isinstance(widening, Widening)
        return widening(hidden)

    def _for_teacher(self, batch: Tensors) -> Mapping[str, Tensor]:
        return {**batch, "input_ids": self._pieces[batch["input_ids"]]}

    def _tracer_of(self, model: TransferModel) -> Tracer:
        if self._student is not model:
            self._student = model
            self._student_tracer = Tracer(model, range(count_blocks(model)) if self._traces else [])
        return self._student_tracer


def attention_loss(student: Trace, teacher: Trace, real: Tensor) -> Tensor:
    """Computes the mean squared difference of attention distributions, averaged over the student's layers.

    Thesis Eq. 5.1, with probabilities as in §5.3.1 (Jiao et al. compare raw scores), before dropout.

    Args:
        student, teacher: traces of equally many blocks; blocks at the same place are compared.
        real: (rows, length) bool, False for padding.
    Returns:
        (rows,).
    """
    layers = zip(student.attention, teacher.attention, strict=True)
    return torch.stack([_map_distance(ours, theirs, real) for ours, theirs in layers]).mean(0)


def hidden_loss(student: Trace, teacher: Trace, real: Tensor) -> Tensor:
    """Computes the mean squared difference of hidden states, averaged over the embedding layer and the blocks.

    Thesis Eq. 5.2.

    Args:
        student, teacher, real: as in `attention_loss`; hidden sizes must be equal.
    Returns:
        (rows,).
    """
    return torch.stack(
        [_state_distance(ours, theirs, real) for ours, theirs in zip(student.hidden, teacher.hidden, strict=True)]
    ).mean(0)


def prediction_loss(student: Sequence[Decisions], teacher: Sequence[Decisions], rows: int) -> Tensor:
    """Computes the cross-entropy of the student's label distributions under the teacher's, averaged over a row.

    Thesis Eq. 5.3, without temperature. A row without decisions has a loss of 0.

    Args:
        student, teacher: one element for each kind; the same decisions in the same order.
        rows: number of rows of the batch.
    Returns:
        (rows,), in float32 or wider.
    """
    total: Tensor | float = 0.0
    for ours, theirs in zip(student, teacher, strict=True):
        wide = torch.promote_types(ours.logits.dtype, torch.float32)
        target = theirs.logits.to(wide).softmax(-1)
        predicted = ours.logits.to(wide).log_softmax(-1)
        entropy = -torch.where(target > 0, target * predicted, 0.0).sum(-1)  # impossible choices are -inf in both
        count = torch.zeros(rows, dtype=wide, device=entropy.device).index_add_(0, ours.row, torch.ones_like(entropy))
        summed = torch.zeros_like(count).index_add(0, ours.row, entropy)
        total = total + ours.weight * summed / count.clamp(min=1)
    assert isinstance(total, Tensor)
    return total


def _map_distance(student: AttentionInputs | Tensor, teacher: AttentionInputs | Tensor, real: Tensor) -> Tensor:
    if isinstance(student, AttentionInputs) and isinstance(teacher, AttentionInputs):
        return map_distance(student, teacher, real)
    maps = [part if isinstance(part, Tensor) else part.map() for part in (student, teacher)]
    wide = torch.promote_types(maps[0].dtype, torch.float32)
    return map_distance_definition(maps[0].to(wide), maps[1].to(wide), real)


def _state_distance(student: Tensor, teacher: Tensor, real: Tensor) -> Tensor:
    wide = torch.promote_types(student.dtype, torch.float32)
    squares = (student.to(wide) - teacher.to(wide)).square().sum(-1) * real
    return squares.sum(1) / (real.sum(1) * student.shape[-1])
