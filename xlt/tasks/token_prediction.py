"""The common part of all tasks that predict tokens with the pre-trained language-model head."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from xlt.data.mix import Features
from xlt.models.transfer import TransferModel
from xlt.tasks.task import Task, Tensors

IGNORED_LABEL = -100
"""The value in `labels` of positions without a prediction."""


class TokenPrediction(Task):
    """A task whose loss is the cross-entropy of the tokens in a batch's `labels`, (rows, length).

    Each label is predicted at its own position. The language-model head computes logits for labelled positions only.
    """

    metric = "loss"
    greater_is_better = False
    needs_lm_head = True

    def targets(self, batch: Tensors) -> int:
        return int((batch["labels"] != IGNORED_LABEL).sum())

    def loss(self, model: TransferModel, batch: Tensors) -> Tensor:
        logits, labels = self._logits(model, batch)
        return functional.cross_entropy(logits.float(), labels, reduction="sum")

    def score(self, model: TransferModel, batch: Tensors, rows: Sequence[Features]) -> tuple[float, int, int]:
        """Returns the summed loss, the number of correct predictions, and the number of predictions."""
        logits, labels = self._logits(model, batch)
        loss = functional.cross_entropy(logits.float(), labels, reduction="sum").item()
        return loss, int((logits.argmax(-1) == labels).sum()), len(labels)

    def metrics(self, scores: Sequence[tuple[float, int, int]]) -> dict[str, float]:
        loss, right, count = (sum(column) for column in zip(*scores, strict=True))
        mean = loss / max(count, 1)
        return {"loss": mean, "perplexity": math.exp(min(mean, 700)), "accuracy": 100 * right / max(count, 1)}

    @staticmethod
    def _logits(model: TransferModel, batch: Tensors) -> tuple[Tensor, Tensor]:
        """Returns the logits (targets, vocabulary) and the labels (targets,) of all labelled positions."""
        hidden = model.encode(batch["input_ids"], batch["attention_mask"])
        is_target = batch["labels"] != IGNORED_LABEL
        return model.language_model_logits(hidden[is_target]), batch["labels"][is_target]
