"""Full fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from xlt.config import key
from xlt.methods.dense import DenseTensors, tunable_names
from xlt.methods.method import Method, Phase, Setting, head_parameters, trained_head
from xlt.models.transfer import TransferModel
from xlt.modules import ModuleArtefact, ModuleHeader, SparseDelta


@dataclass
class FullConfig:
    """Full fine-tuning."""

    _target_: str = "xlt.methods.full.Full"
    freeze_layer_norm: bool = key("keep layer normalisation fixed")
    untie_embeddings: bool = key("for language modules: separate output embeddings, fixed (thesis §4.4.2)")


SCHEMA = FullConfig


class Full(Method):
    """Every parameter is tuned. The module is the dense difference (density 1), so that it composes like any other."""

    name = "full"

    def __init__(self, freeze_layer_norm: bool, untie_embeddings: bool) -> None:
        self.freeze_layer_norm = freeze_layer_norm
        self.untie_embeddings = untie_embeddings

    def attach(self, model: TransferModel, phase: Phase, setting: Setting) -> None:
        names = tunable_names(
            model,
            adapts_language=setting.adapts_language and self.untie_embeddings,
            freeze_layer_norm=self.freeze_layer_norm,
        )
        self._dense = DenseTensors(model, names, keep_start=True)
        self._head = head_parameters(model)

    def trainable(self) -> dict[str, nn.Parameter]:
        return {**self._dense.parameters, **self._head}

    def export(self, model: TransferModel, header: ModuleHeader) -> ModuleArtefact:
        return SparseDelta(header, self._dense.entries(), trained_head(model))

    def report(self) -> dict[str, float]:
        return {"tuned_entries": sum(parameter.numel() for parameter in self._dense.parameters.values())}
