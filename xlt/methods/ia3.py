"""(IA)^3 (Liu et al., 2022), a baseline of thesis chapter 7, through the `peft` library."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from xlt.errors import UsageError
from xlt.methods.method import trained_head
from xlt.methods.peft_baselines import ADAPTER, PeftMethod, on_cpu
from xlt.models.transfer import TransferModel
from xlt.modules import ModuleArtefact, ModuleHeader, Rescaling


@dataclass
class Ia3Config:
    """Settings of (IA)^3, which has no hyperparameters."""

    _target_: str = "xlt.methods.ia3.Ia3"


SCHEMA = Ia3Config

# Model families that are not in peft's tables: those whose layers are named as another family's, and those whose
# layers are listed here (all targets, and the feed-forward layers among them).
_SAME_NAMES_AS = {"xlm-roberta": "roberta"}
_EXTRA_FAMILIES = {"m2m_100": (["k_proj", "v_proj", "fc2"], ["fc2"])}


class Ia3(PeftMethod):
    """A method that trains factors of keys, values, and inputs of the feed-forward output layers, starting at one.

    The tables of peft say which layers these are in a model family; for translators of the M2M-100 family this file
    does.
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
        family = _SAME_NAMES_AS.get(family, family)
        if family not in {**TARGETS, **_EXTRA_FAMILIES}:
            raise UsageError(
                f"method=ia3: the layers to rescale in models of type {family} are unknown; "
                f"known are {', '.join(sorted({**TARGETS, **_EXTRA_FAMILIES}))}"
            )
        targets, feed_forward = _EXTRA_FAMILIES.get(family) or (TARGETS[family], FEED_FORWARD[family])
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
