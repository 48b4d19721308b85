"""What LoRA and (IA)^3, injected by the `peft` library, have in common as methods."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from xlt.errors import UsageError
from xlt.methods.method import Method, ModuleReport, Phase, Setting, head_parameters
from xlt.models.transfer import TransferModel

ADAPTER = "default"
"""peft's name for the one set of parameters that is injected."""


class PeftMethod(Method):
    """Injects one of peft's tuners into the backbone, trains its parameters, and leaves them as a module of xlt's.

    The parameters are float32 over a bfloat16 or 4-bit base, where peft alone would give them the base's dtype. (Thesis
    §7.4.3 has them in float32 over bfloat16 as well, but in bfloat16 over 4 bits.) Several source languages are
    switched in place: peft's layers use the base weights as they stand.
    """

    @abstractmethod
    def peft_config(self, model: TransferModel) -> Any:
        """What peft is told."""

    def attach(self, model: TransferModel, phase: Phase, setting: Setting) -> None:
        from peft import inject_adapter_in_model

        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith("head."))
        before = set(dict(model.named_parameters()))
        seed = int(torch.randint(2**62, (), generator=setting.random("adapter")))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            inject_adapter_in_model(self.peft_config(model), model.backbone, adapter_name=ADAPTER)
        model.backbone.to(model.device)
        after = dict(model.named_parameters())
        self._head, self._total = head_parameters(model), model.pretrained_parameters
        self._injected = {
            name: parameter
            for name, parameter in after.items()
            if name.replace(".base_layer.", ".") not in before and not name.startswith("head.")
        }
        wide = torch.promote_types(next(model.backbone.parameters()).dtype, torch.float32)
        for parameter in self._injected.values():
            parameter.data = parameter.data.to(wide)
        if not self._injected:
            raise UsageError(f"method={self.name}: peft found nothing to adapt in {model.base_name}")
        self._layers = {
            f"backbone.{path}": layer for path, layer in model.backbone.named_modules() if hasattr(layer, "base_layer")
        }

    def trainable(self) -> dict[str, nn.Parameter]:
        return {**self._injected, **self._head}

    def report(self) -> ModuleReport:
        tuned = sum(parameter.numel() for parameter in self._injected.values())
        return {"tuned_entries": tuned, "density": tuned / self._total}


def on_cpu(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().clone()
