"""The common part of LoRA and (IA)^3, both of which use the `peft` library."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from xlt.methods.method import Method, ModuleReport, Phase, Setting, head_parameters
from xlt.models.transfer import TransferModel

ADAPTER = "default"
"""The name that peft gives the injected parameters."""


class PeftMethod(Method):
    """A method that injects one of peft's tuners into the backbone, trains its parameters and exports them as a module.

    The parameters are float32, even if the base is bfloat16 or 4-bit; peft alone would use the base's dtype. (Thesis
    §7.4.3 also has float32 over bfloat16, but bfloat16 over 4 bits.) Source languages can be switched in place, because
    peft's layers read the base weights at each forward pass.
    """

    packages: ClassVar[Mapping[str, str]] = {"peft": "peft"}
    spreads: ClassVar[bool] = True

    @abstractmethod
    def peft_config(self, model: TransferModel) -> Any:
        """Returns the configuration for peft's injection into this model."""

    def attach(self, model: TransferModel, phase: Phase, setting: Setting) -> None:
        from peft import inject_adapter_in_model

        self.check_model(model, adapts_language=setting.adapts_language)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith("head."))
        before = set(dict(model.named_parameters()))
        seed = int(torch.randint(2**62, (), generator=setting.random("adapter")))
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft says of each Conv1D that it treats its weight as transposed
            torch.manual_seed(seed)
            inject_adapter_in_model(self.peft_config(model), model.backbone, adapter_name=ADAPTER)
        for layer in model.backbone.modules():  # new tensors go where their layer's weight is
            if isinstance(base := getattr(layer, "base_layer", None), nn.Module):
                for part in (part for part in layer.children() if part is not base):
                    part.to(next(base.parameters()).device)
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
        self._layers = {
            f"backbone.{path}": layer for path, layer in model.backbone.named_modules() if hasattr(layer, "base_layer")
        }

    def trainable(self) -> dict[str, nn.Parameter]:
        return {**self._injected, **self._head}

    def report(self) -> ModuleReport:
        tuned = sum(parameter.numel() for parameter in self._injected.values())
        return {"tuned_entries": tuned, "density": tuned / self._total}


def on_cpu(tensor: Tensor) -> Tensor:
    """Returns a copy on the CPU, without gradient."""
    return tensor.detach().cpu().clone()
