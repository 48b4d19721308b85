"""Masked language modelling, the objective of language adaptation (thesis §4.3.2)."""

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
from xlt.tasks.task import pad
from xlt.tasks.token_prediction import IGNORED_LABEL, TokenPrediction


@dataclass
class MlmConfig:
    """Settings of masked language modelling."""

    _target_: str = "xlt.tasks.mlm.MaskedLanguageModelling"
    max_length: int = key("maximum length of a sequence, in tokens", low=8)
    masked_share: float = key("share of the pieces to predict (BERT: 0.15)", above=0, high=1)
    packing: bool = key("whether to join lines into sequences of max_length; false: one sequence per line")


SCHEMA = MlmConfig


class MaskedLanguageModelling(TokenPrediction):
    """The task of predicting masked pieces of a text.

    Of the selected pieces 80% become the mask token, 10% become a random piece and 10% stay (BERT). Training draws new
    pieces at every step. Evaluation selects the same pieces each time, because the engine passes it the same generator.
    """

    name = "mlm"
    adapts_language = True
    validates_at_random = True

    def __init__(self, max_length: int, masked_share: float, packing: bool) -> None:
        self.max_length, self.masked_share, self.packing = max_length, masked_share, packing

    def check(self, examples: Sequence[Example], source: str) -> None:
        for example in examples:
            if example.text is None:
                raise UsageError(f"{example.place}: there is no running text, which task mlm needs; check {source}")

    def check_tokenizer(self, encoder: Encoder) -> None:
        if encoder.tokenizer.mask_token_id is None:
            raise UsageError("task=mlm: the tokenizer has no mask token; take an encoder with a masked language model")

    def features(self, examples: Sequence[Example], encoder: Encoder) -> list[Features]:
        sequences = encoder.sequences([str(example.text) for example in examples], self.max_length, self.packing)
        return [{"input_ids": ids} for ids in sequences]

    def collate(self, features: Sequence[Features], encoder: Encoder, generator: torch.Generator) -> dict[str, Tensor]:
        ids = pad([item["input_ids"] for item in features], encoder.pad_id)
        attention = pad([[1] * len(item["input_ids"]) for item in features], 0)
        special = torch.isin(ids, torch.tensor(sorted(encoder.special)))
        is_target = (torch.rand(ids.shape, generator=generator) < self.masked_share) & ~special
        if not is_target.any() and not special.all():  # few pieces can leave none selected; then select one
            is_target.view(-1)[(~special).view(-1).nonzero()[0]] = True
        labels = torch.where(is_target, ids, IGNORED_LABEL)
        draw = torch.rand(ids.shape, generator=generator)
        random_pieces = torch.randint(len(encoder.tokenizer), ids.shape, generator=generator)
        ids = torch.where(is_target & (draw < 0.8), encoder.tokenizer.mask_token_id, ids)
        ids = torch.where(is_target & (draw >= 0.9), random_pieces, ids)
        return {"input_ids": ids, "attention_mask": attention, "labels": labels}
