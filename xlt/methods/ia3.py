"""(IA)^3 (Liu et al., 2022), a baseline of thesis chapter 7, through the `peft` library."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from xlt.methods.method import trained_head
from xlt.methods.peft_baselines import ADAPTER, PeftMethod, on_cpu
from xlt.models.transfer import TransferModel
from xlt.modules import ModuleArtefact, ModuleHeader, Rescaling


@dataclass
class Ia3Config:
    """(IA)^3; it has no hyperparameters of its own."""

    _target_: str = "xlt.methods.ia3.Ia3"


SCHEMA = Ia3Config

# Families that peft's tables leave out: one whose layers bear another's names, one with its layers.
_LIKE = {"xlm-roberta": "roberta"}
_OWN = {"m2m_100": (["k_proj", "v_proj", "fc2"], ["fc2"])}


class Ia3(PeftMethod):
    """Rescales keys, values, and the inputs of feed-forward output layers; factors begin at one.

    Which layers these are in a model family is peft's own table, but for translators of the M2M-100 family.
    """

    name = "ia3"
    leaves = Rescaling

    def peft_config(self, model: TransferModel) -> Any:
        from peft import IA3Config
        from peft.utils.constants import (
            TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as FEED_FORWARD,
        )
        from peft.utils.constants import (
            TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as TARGETS,
        )

        family = str(model.backbone.config.model_type)  # type: ignore[union-attr]
        family = _LIKE.get(family, family)
        if family not in {**TARGETS, **_OWN}:
            raise ValueError(f"method=ia3: peft does not know which layers to rescale in a {family} model")
        targets, feed_forward = _OWN.get(family) or (TARGETS[family], FEED_FORWARD[family])
        return IA3Config(target_modules=targets, feedforward_modules=feed_forward)

    def export(self, model: TransferModel, header: ModuleHeader) -> ModuleArtefact:
        factors: dict[str, Tensor] = {}
        sizes: dict[str, tuple[int, ...]] = {}
        for path, layer in self._layers.items():
            factor, base = on_cpu(layer.ia3_l[ADAPTER]), layer.get_base_layer()
            factors[f"{path}.weight"], sizes[f"{path}.weight"] = factor, tuple(base.weight.shape)
            if base.bias is not None and not layer.is_feedforward:
                factors[f"{path}.bias"], sizes[f"{path}.bias"] = factor.view(-1), tuple(base.bias.shape)
        return Rescaling(dataclasses.replace(header, kind=Rescaling.kind), factors, sizes, trained_head(model))
