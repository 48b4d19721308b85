"""The common part of all tasks that predict tokens with the pre-trained language-model head."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from xlt.data.mix import Features
from xlt.models.families import DECODER, ENCODER, ENCODER_DECODER
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
    metric_range: tuple[float, float] | None = None
    needs_lm_head = True

    most_new_tokens = 128
    """Number of tokens after which a text that the model writes ends, if it has not ended before."""

    predicts_next = False
    """Whether the labels are the next tokens, which the model must not see; otherwise it must see both sides."""

    @classmethod
    def architecture_fault(cls, architecture: str) -> str | None:
        if architecture == (DECODER if cls.predicts_next else ENCODER):
            return None
        if architecture == ENCODER_DECODER:
            return "is an encoder-decoder, for which there are the tasks of tagging, classification and translation"
        if cls.predicts_next:
            return "is an encoder, which sees the tokens that it should predict; take a decoder, or a task of encoders"
        return "is a decoder, which sees no token after a masked one; take task=causal_lm, or an encoder"

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
