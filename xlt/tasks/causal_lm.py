"""Next-token prediction, the objective that decoders are adapted with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from xlt.config import UsageError, key
from xlt.data.encoding import Encoder
from xlt.data.examples import Example
from xlt.data.mix import Features
from xlt.models.transfer import TransferModel
from xlt.tasks.task import Task, Tensors, pad


@dataclass
class CausalLmConfig:
    """Next-token prediction."""

    _target_: str = "xlt.tasks.causal_lm.CausalLanguageModelling"
    max_length: int = key("longest sequence, tokens", low=8)
    packing: bool = key("join lines into sequences of max_length; false: one line a sequence")


SCHEMA = CausalLmConfig


class CausalLanguageModelling(Task):
    """Predicts every token of a sequence but the first from those before it, special tokens included."""

    name = "causal_lm"
    metric = "loss"
    greater_is_better = False
    needs_lm_head = True

    def __init__(self, max_length: int, packing: bool) -> None:
        self.max_length, self.packing = max_length, packing

    def check(self, examples: Sequence[Example], source: str) -> None:
        for example in examples:
            if example.text is None:
                raise UsageError(f"{example.place}: no running text; source {source} cannot serve task causal_lm")

    def features(self, examples: Sequence[Example], encoder: Encoder) -> list[Features]:
        sequences = encoder.sequences([str(example.text) for example in examples], self.max_length, self.packing)
        return [{"input_ids": ids} for ids in sequences if len(ids) > 1]  # a single token predicts nothing

    def collate(self, features: Sequence[Features], encoder: Encoder, generator: torch.Generator) -> dict[str, Tensor]:
        rows = [item["input_ids"] for item in features]
        return {
            "input_ids": pad(rows, encoder.pad_id),
            "attention_mask": pad([[1] * len(ids) for ids in rows], 0),
            "labels": pad([[*ids[1:], -100] for ids in rows], -100),  # at each position the token that follows
        }

    def targets(self, batch: Tensors) -> int:
        return int((batch["labels"] != -100).sum())

    def loss(self, model: TransferModel, batch: Tensors) -> Tensor:
        hidden = model.encode(batch["input_ids"], batch["attention_mask"])
        followed = batch["labels"] != -100
        logits = model.language_model_logits(hidden[followed])
        return functional.cross_entropy(logits.float(), batch["labels"][followed], reduction="sum")

    def score(self, model: TransferModel, batch: Tensors, rows: Sequence[Features]) -> tuple[float, int]:
        return self.loss(model, batch).item(), self.targets(batch)

    def metrics(self, scores: Sequence[tuple[float, int]]) -> dict[str, float]:
        loss, count = (sum(column) for column in zip(*scores, strict=True))
        mean = loss / max(count, 1)
        return {"loss": mean, "perplexity": math.exp(min(mean, 700))}
