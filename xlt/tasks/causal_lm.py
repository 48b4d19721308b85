"""Next-token prediction, the objective with which decoders are adapted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from xlt.config import key
from xlt.data.encoding import Encoder
from xlt.data.examples import Example
from xlt.data.mix import Features
from xlt.errors import UsageError
from xlt.models.transfer import TransferModel
from xlt.tasks.generation import continuations
from xlt.tasks.task import Annotation, Tensors, pad
from xlt.tasks.token_prediction import IGNORED_LABEL, TokenPrediction


@dataclass
class CausalLmConfig:
    """Settings of next-token prediction."""

    _target_: str = "xlt.tasks.causal_lm.CausalLanguageModelling"
    max_length: int = key("maximum length of a sequence, in tokens", low=8)
    packing: bool = key("whether to join lines into sequences of max_length; false: one sequence per line")


SCHEMA = CausalLmConfig


class CausalLanguageModelling(TokenPrediction):
    """The task of predicting each token of a sequence, except the first, from those before it.

    Special tokens are predicted, too.
    """

    name = "causal_lm"
    adapts_language = True
    continues_text = True
    predicts_next = True

    def __init__(self, max_length: int, packing: bool) -> None:
        self.max_length, self.packing = max_length, packing

    def check(self, examples: Sequence[Example], source: str) -> None:
        for example in examples:
            if example.text is None:
                raise UsageError(
                    f"{example.place}: there is no running text, which task causal_lm needs; check {source}"
                )

    def features(self, examples: Sequence[Example], encoder: Encoder) -> list[Features]:
        sequences = encoder.sequences([str(example.text) for example in examples], self.max_length, self.packing)
        return [{"input_ids": ids} for ids in sequences if len(ids) > 1]  # one token alone gives no prediction

    def blank(self, example: Example) -> Example:
        return example

    def inputs(self, examples: Sequence[Example], encoder: Encoder) -> list[Features]:
        """Returns a row for each text, which is the beginning that the model continues; of a long one, its end."""
        self._encoder = encoder  # `predict` writes texts with it
        room = self.max_length - len(encoder.prefix)
        rows = []
        for number, ids in enumerate(encoder.lines([str(example.text) for example in examples])):
            ids = [*encoder.prefix, *ids[-room:]]
            if not ids:
                raise UsageError(f"{examples[number].place}: the text is empty, so there is nothing to continue")
            rows.append({"input_ids": ids, "example": number})
        return rows

    def predict(self, model: TransferModel, batch: Tensors, rows: Sequence[Features]) -> list[str]:
        """Returns the continuations."""
        return continuations(model, self._encoder, [row["input_ids"] for row in rows], self.most_new_tokens)

    def annotate(self, rows: Sequence[Features], predicted: Sequence[str]) -> Annotation:
        return Annotation(text=predicted[0])

    def collate(self, features: Sequence[Features], encoder: Encoder, generator: torch.Generator) -> dict[str, Tensor]:
        rows = [item["input_ids"] for item in features]
        return {
            "input_ids": pad(rows, encoder.pad_id),
            "attention_mask": pad([[1] * len(ids) for ids in rows], 0),
            # The label of a position is the next token.
            "labels": pad([[*ids[1:], IGNORED_LABEL] for ids in rows], IGNORED_LABEL),
        }
