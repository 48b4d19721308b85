"""What all tasks have in common that predict tokens with the pre-trained language-model head."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from xlt.data.mix import Features
from xlt.models.transfer import TransferModel
from xlt.tasks.task import Task, Tensors

UNTAUGHT = -100
"""In `labels`, where nothing is predicted."""


class TokenPrediction(Task):
    """Cross-entropy of the tokens in a batch's `labels`, (rows, length), each predicted at its own position.

    Only the positions that predict something pass through the language-model head.
    """

    metric = "loss"
    greater_is_better = False
    needs_lm_head = True

    def targets(self, batch: Tensors) -> int:
        return int((batch["labels"] != UNTAUGHT).sum())

    def loss(self, model: TransferModel, batch: Tensors) -> Tensor:
        logits, labels = self._logits(model, batch)
        return functional.cross_entropy(logits.float(), labels, reduction="sum")

    def score(self, model: TransferModel, batch: Tensors, rows: Sequence[Features]) -> tuple[float, int, int]:
        """Summed loss, tokens predicted right, tokens."""
        logits, labels = self._logits(model, batch)
        loss = functional.cross_entropy(logits.float(), labels, reduction="sum").item()
        return loss, int((logits.argmax(-1) == labels).sum()), len(labels)

    def metrics(self, scores: Sequence[tuple[float, int, int]]) -> dict[str, float]:
        loss, right, count = (sum(column) for column in zip(*scores, strict=True))
        mean = loss / max(count, 1)
        return {"loss": mean, "perplexity": math.exp(min(mean, 700)), "accuracy": 100 * right / max(count, 1)}

    @staticmethod
    def _logits(model: TransferModel, batch: Tensors) -> tuple[Tensor, Tensor]:
        """(targets, vocabulary) and (targets,)."""
        hidden = model.encode(batch["input_ids"], batch["attention_mask"])
        taught = batch["labels"] != UNTAUGHT
        return model.language_model_logits(hidden[taught]), batch["labels"][taught]
