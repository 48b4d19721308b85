"""LoRA (Hu et al., 2022; thesis §2.2.1), the baseline of thesis chapter 7, through the `peft` library."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from xlt.config import key
from xlt.methods.method import trained_head
from xlt.methods.peft_baselines import ADAPTER, PeftMethod, on_cpu
from xlt.models.transfer import TransferModel, block_linear_layers
from xlt.modules import LowRankDelta, ModuleArtefact, ModuleHeader


@dataclass
class LoraConfig:
    """Settings of low-rank adaptation."""

    _target_: str = "xlt.methods.lora.Lora"
    rank: int = key("rank of each weight's delta", low=1, recipe=True)
    alpha: int = key("each delta is multiplied by alpha / rank", low=1)
    dropout: float = key("dropout probability of the input of the low-rank path", low=0, high=1)


SCHEMA = LoraConfig


class Lora(PeftMethod):
    """A method that trains a delta B A alpha / rank of every linear layer of the Transformer blocks (thesis §7.4.3).

    B starts at zero.
    """

    name = "lora"
    leaves = LowRankDelta

    def __init__(self, rank: int, alpha: int, dropout: float) -> None:
        self.rank, self.alpha, self.dropout = rank, alpha, dropout

    def peft_config(self, model: TransferModel) -> Any:
        from peft import LoraConfig as PeftLora

        layers = [name.removeprefix("backbone.").removesuffix(".weight") for name in block_linear_layers(model)]
        return PeftLora(
            r=self.rank, lora_alpha=self.alpha, lora_dropout=self.dropout, target_modules=layers, bias="none"
        )

    def export(self, model: TransferModel, header: ModuleHeader) -> ModuleArtefact:
        factors = {
            f"{path}.weight": (on_cpu(layer.lora_A[ADAPTER].weight), on_cpu(layer.lora_B[ADAPTER].weight))
            for path, layer in self._layers.items()
        }
        return LowRankDelta(
            dataclasses.replace(header, kind=LowRankDelta.kind), factors, self.alpha / self.rank, trained_head(model)
        )
