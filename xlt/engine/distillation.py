"""Learning a task, or only to compute the same, from a teacher (thesis §5.3.1)."""

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
    """A task whose loss is how far a student is from its teacher; its data, head and metric stay the task's own.

    The loss of a sequence x is the sum of those asked for of Eq. 5.1 (attention, over heads and pairs of real
    positions), 5.2 (hidden states, over real positions) and 5.3 (cross-entropy of the teacher's label distribution and
    the student's, mean over the sequence's decisions; of a kind each, as in the task's loss). That of a batch is their
    mean over sequences.

    Without the prediction loss nothing is learned about labels, so what selects checkpoints is the loss itself, and no
    head is evaluated: the first stage (§5.3.2). With it the task's metric does: the second (§5.3.3).

    A narrower student's hidden states are taken to the teacher's by a matrix (Mukherjee and Awadallah 2020; the thesis
    has no equation for it, §8.2, footnote 2). The first stage learns it as the model's head, the second keeps it.

    Args:
        task: what is learned.
        teacher: in evaluation mode, whatever modules it is to have in it; passes through it leave no gradient.
        student_layers: how many blocks the student has; a divisor of the teacher's.
        pieces: (student's tokens,) int64, the teacher's id of each.
        losses: of ATTENTION, HIDDEN, PREDICTION.
        widening: of a narrower student, from the first stage; None where its own head is it.
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
        """Those asked for, by name: (rows,) each, at least float32."""
        with torch.no_grad():
            theirs, wanted = self._pass(self.teacher, self._teacher_tracer, self._for_teacher(batch))
        ours, made = self._pass(model, self._tracer_of(model), batch)
        real = batch["attention_mask"].bool()
        found = {}
        if ATTENTION in self._losses:
            found[ATTENTION] = attention_loss(ours, theirs, real)
        if HIDDEN in self._losses:
            widened = [self._widen(model, state) for state in ours.hidden]
            found[HIDDEN] = hidden_loss(Trace(widened), theirs, real)
        if PREDICTION in self._losses:
            found[PREDICTION] = prediction_loss(made, wanted, len(real))
        return found

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
        """One pass, with the heads only where their decisions are compared."""
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
    """Mean squared difference of the attention distributions, mean over the student's layers, (rows,).

    Thesis Eq. 5.1, probabilities as §5.3.1 has it (Jiao et al. compare raw scores), before dropout.

    Args:
        student, teacher: as many blocks, those that answer to each other at the same place.
        real: (rows, length) bool, False for padding.
    """
    layers = zip(student.attention, teacher.attention, strict=True)
    return torch.stack([_map_distance(ours, theirs, real) for ours, theirs in layers]).mean(0)


def hidden_loss(student: Trace, teacher: Trace, real: Tensor) -> Tensor:
    """Mean squared difference of the hidden states, mean over the embedding layer and the layers, (rows,).

    Thesis Eq. 5.2.

    Args:
        student, teacher, real: as in `attention_loss`; hidden sizes are equal.
    """
    return torch.stack(
        [_state_distance(ours, theirs, real) for ours, theirs in zip(student.hidden, teacher.hidden, strict=True)]
    ).mean(0)


def prediction_loss(student: Sequence[Decisions], teacher: Sequence[Decisions], rows: int) -> Tensor:
    """Cross-entropy of the student's label distributions under the teacher's, mean over a row's decisions, (rows,).

    Thesis Eq. 5.3; no temperature. A row without decisions has 0.

    Args:
        student, teacher: by kind, the same decisions in the same order.
    """
    total: Tensor | float = 0.0
    for ours, theirs in zip(student, teacher, strict=True):
        wide = torch.promote_types(ours.logits.dtype, torch.float32)
        wanted = theirs.logits.to(wide).softmax(-1)
        told = ours.logits.to(wide).log_softmax(-1)
        entropy = -torch.where(wanted > 0, wanted * told, 0.0).sum(-1)  # what cannot be chosen is -inf in both
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
