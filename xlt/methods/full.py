"""Full fine-tuning, and pre-training from nothing."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from xlt.config import key
from xlt.methods.dense import DenseTensors, tunable_names
from xlt.methods.method import Method, ModuleReport, Phase, Setting, head_parameters, trained_head
from xlt.models.transfer import TransferModel
from xlt.modules import ModuleArtefact, ModuleHeader, SparseDelta


@dataclass
class FullConfig:
    """Full fine-tuning."""

    _target_: str = "xlt.methods.full.Full"
    freeze_layer_norm: bool = key("keep layer normalisation fixed")
    untie_embeddings: bool = key("for language modules: separate output embeddings, fixed (thesis §4.4.2)")
    leaves_checkpoint: bool = key("leave the whole model, for other runs to start from, beside the module")


SCHEMA = FullConfig


class Full(Method):
    """Every parameter is tuned. The module is the dense difference (density 1), so that it composes like any other.

    Without `untie_embeddings` a language run tunes tied output embeddings with the input ones: pre-training.
    """

    name = "full"

    def __init__(self, freeze_layer_norm: bool, untie_embeddings: bool, leaves_checkpoint: bool) -> None:
        self.freeze_layer_norm = freeze_layer_norm
        self.untie_embeddings = untie_embeddings
        self.leaves_checkpoint = leaves_checkpoint

    def attach(self, model: TransferModel, phase: Phase, setting: Setting) -> None:
        names = tunable_names(
            model,
            adapts_language=setting.adapts_language and self.untie_embeddings,
            freeze_layer_norm=self.freeze_layer_norm,
        )
        self._dense = DenseTensors(model, names, keep_start=True)
        self._head = head_parameters(model)
        self._total = model.pretrained_parameters

    def trainable(self) -> dict[str, nn.Parameter]:
        return {**self._dense.parameters, **self._head}

    def export(self, model: TransferModel, header: ModuleHeader) -> ModuleArtefact:
        return SparseDelta(header, self._dense.entries(), trained_head(model))

    def report(self) -> ModuleReport:
        tuned = sum(parameter.numel() for parameter in self._dense.parameters.values())
        return {"tuned_entries": tuned, "density": tuned / self._total}
