"""LoRA (Hu et al., 2022; thesis §2.2.1), the baseline of thesis chapter 7, through the `peft` library."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from xlt.config import key
from xlt.methods.method import chosen_linear_layers, refuse_large_rank, trained_head
from xlt.methods.peft_baselines import ADAPTER, PeftMethod, on_cpu
from xlt.models.transfer import TransferModel, is_transposed
from xlt.modules import LowRankDelta, ModuleArtefact, ModuleHeader


@dataclass
class LoraConfig:
    """Settings of low-rank adaptation."""

    _target_: str = "xlt.methods.lora.Lora"
    rank: int = key("rank of each weight's delta", low=1, recipe=True)
    alpha: int = key("each delta is multiplied by alpha / rank", low=1)
    dropout: float = key("dropout probability of the input of the low-rank path", low=0, high=1)
    layers: list[str] = key("ends of the names of the blocks' linear layers to adapt, such as query; empty: all")


SCHEMA = LoraConfig


class Lora(PeftMethod):
    """A method that trains a delta B A alpha / rank of the linear layers of the Transformer blocks (thesis §7.4.3).

    B starts at zero.
    """

    name = "lora"
    leaves = LowRankDelta

    def __init__(self, rank: int, alpha: int, dropout: float, layers: Sequence[str] = ()) -> None:
        self.rank, self.alpha, self.dropout, self.layers = rank, alpha, dropout, tuple(layers)

    def check_model(self, model: TransferModel, *, adapts_language: bool) -> None:
        layers = chosen_linear_layers(self.name, model, self.layers)
        refuse_large_rank(f"method.rank={self.rank}", self.rank, layers, model)

    def peft_config(self, model: TransferModel) -> Any:
        from peft import LoraConfig as PeftLora

        layers = chosen_linear_layers(self.name, model, self.layers)
        return PeftLora(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=[name.removeprefix("backbone.").removesuffix(".weight") for name in layers],
            bias="none",
            fan_in_fan_out=all(is_transposed(layer) for layer in layers.values()),
        )

    def export(self, model: TransferModel, header: ModuleHeader) -> ModuleArtefact:
        factors = {}
        for path, layer in self._layers.items():
            a, b = (on_cpu(factor[ADAPTER].weight) for factor in (layer.lora_A, layer.lora_B))
            # The weight of a transposed layer is (in, out), and so is its delta, (B A)^T.
            factors[f"{path}.weight"] = (b.t(), a.t()) if is_transposed(layer.get_base_layer()) else (a, b)
        return LowRankDelta(
            dataclasses.replace(header, kind=LowRankDelta.kind), factors, self.alpha / self.rank, trained_head(model)
        )
