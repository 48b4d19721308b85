"""The common part of all tasks that predict tokens with the pre-trained language-model head."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from xlt.data.mix import Features
from xlt.models.cpu_training import checkpoint_contexts
from xlt.models.families import DECODER, ENCODER, ENCODER_DECODER
from xlt.models.transfer import TransferModel
from xlt.tasks.task import Task, Tensors

IGNORED_LABEL = -100
"""The value in `labels` of positions without a prediction."""


# With more logits than this (0.5 GiB in float32) the loss is computed in parts of at most so many. Below, that would
# only cost time: the products of the language-model head are computed once more in the backward pass.
_MOST_LOGITS = 2**27
_MOST_LOGITS_OF_PART = 2**25


def summed_loss(model: TransferModel, hidden: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Computes the sum of the cross-entropies of tokens, without the logits of all of them at a time.

    The softmax is in float32. Of many tokens, the logits are computed in parts, and again in the backward pass; the
    peak is then that of one part instead of several times tokens x vocabulary. The sum and the gradients are those of
    one part, up to rounding.

    Args:
        model: with its language-model head.
        hidden: (tokens, hidden), the representations from which the head predicts.
        labels: (tokens,) int64.
        smoothing: of the labels, from 0 (none) to 1.
    Returns:
        float32 scalar.
    """

    def of_part(part: Tensor, own: Tensor) -> Tensor:
        logits = model.language_model_logits(part).float()
        return functional.cross_entropy(logits, own, reduction="sum", label_smoothing=smoothing)

    parts = list(_parts(model, hidden, labels))
    if len(parts) == 1:
        return of_part(hidden, labels)
    losses = [checkpoint(of_part, *part, use_reentrant=False, context_fn=checkpoint_contexts) for part in parts]
    return torch.stack(losses).sum()


def _parts(model: TransferModel, hidden: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields representations and labels of the tokens whose logits are computed together."""
    tokens = max(len(labels), 1)
    if len(labels) * model.vocabulary > _MOST_LOGITS:
        tokens = max(_MOST_LOGITS_OF_PART // model.vocabulary, 1)
    yield from zip(hidden.split(tokens), labels.split(tokens), strict=True)


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

    def architecture_fault(self, architecture: str) -> str | None:
        if architecture == (DECODER if self.predicts_next else ENCODER):
            return None
        if architecture == ENCODER_DECODER:
            return (
                "is an encoder-decoder, for which there are the tasks of tagging, classification, text to text and "
                "translation"
            )
        if self.predicts_next:
            return "is an encoder, which sees the tokens that it should predict; take a decoder, or a task of encoders"
        return "is a decoder, which sees no token after a masked one; take task=causal_lm, or an encoder"

    def targets(self, batch: Tensors) -> int:
        return int((batch["labels"] != IGNORED_LABEL).sum())

    def loss(self, model: TransferModel, batch: Tensors) -> Tensor:
        return summed_loss(model, *self._labelled(model, batch))

    def score(self, model: TransferModel, batch: Tensors, rows: Sequence[Features]) -> tuple[float, int, int]:
        """Returns the summed loss, the number of correct predictions, and the number of predictions."""
        loss, right, count = 0.0, 0, 0
        for hidden, labels in _parts(model, *self._labelled(model, batch)):
            logits = model.language_model_logits(hidden).float()
            loss += functional.cross_entropy(logits, labels, reduction="sum").item()
            right += int((logits.argmax(-1) == labels).sum())
            count += len(labels)
        return loss, right, count

    def metrics(self, scores: Sequence[tuple[float, int, int]]) -> dict[str, float]:
        loss, right, count = (sum(column) for column in zip(*scores, strict=True))
        mean = loss / max(count, 1)
        return {"loss": mean, "perplexity": math.exp(min(mean, 700)), "accuracy": 100 * right / max(count, 1)}

    def _labelled(self, model: TransferModel, batch: Tensors) -> tuple[Tensor, Tensor]:
        """Returns the representations (targets, hidden) and the labels (targets,) of all labelled positions."""
        hidden = model.encode(batch["input_ids"], batch["attention_mask"])
        is_target = batch["labels"] != IGNORED_LABEL
        return hidden[is_target], batch["labels"][is_target]
