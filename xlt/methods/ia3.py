"""(IA)^3 (Liu et al., 2022), a baseline of thesis chapter 7, through the `peft` library."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from xlt.errors import UsageError
from xlt.methods.method import trained_head
from xlt.methods.peft_baselines import ADAPTER, PeftMethod, on_cpu
from xlt.models.transfer import TransferModel, block_linear_layers, is_transposed
from xlt.modules import ModuleArtefact, ModuleHeader, Rescaling


@dataclass
class Ia3Config:
    """Settings of (IA)^3, which has no hyperparameters."""

    _target_: str = "xlt.methods.ia3.Ia3"


SCHEMA = Ia3Config

# In families that peft's tables lack, layers are known by the ends of their paths: those of keys and values, in some
# families together with the queries, and the output layers of the feed-forward sub-layers.
_KEYS_AND_VALUES = (
    *("k_proj", "v_proj", "key", "value", "key_proj", "value_proj", "k_lin", "v_lin", "attn.k", "attn.v"),
    *("SelfAttention.k", "SelfAttention.v", "EncDecAttention.k", "EncDecAttention.v"),
    *("Wqkv", "qkv_proj", "query_key_value", "c_attn", "in_proj"),
)
_FEED_FORWARD = (
    *("down_proj", "fc2", "ffn.lin2", "ffn_output", "mlp.Wo", "mlp.c_proj", "dense_4h_to_h", "DenseReluDense.wo"),
    *("mlp.wo", "w2"),
)
_BERT_FEED_FORWARD = "output.dense"  # of BERT-like blocks, in which `attention.output.dense` is another layer


class Ia3(PeftMethod):
    """A method that trains factors of keys, values, and inputs of the feed-forward output layers, starting at one.

    The tables of peft say which layers these are in a model family. (For some families they name the queries in place
    of the keys, and where one layer computes queries, keys and values together, all three are rescaled.) In families
    that peft's tables lack, the layers are found by their names.
    """

    name = "ia3"
    leaves = Rescaling

    def check_model(self, model: TransferModel, *, adapts_language: bool) -> None:
        self._targets(model)

    def peft_config(self, model: TransferModel) -> Any:
        from peft import IA3Config

        targets, feed_forward = self._targets(model)
        return IA3Config(
            target_modules=targets,
            feedforward_modules=feed_forward,
            fan_in_fan_out=all(is_transposed(layer) for layer in block_linear_layers(model).values()),
        )

    def _targets(self, model: TransferModel) -> tuple[list[str], list[str]]:
        """Returns the layers to rescale, and those among them whose inputs are rescaled, by the ends of their paths.

        Raises:
            UsageError: no layer has a known name.
        """
        from peft.utils.constants import (
            TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as FEED_FORWARD,
        )
        from peft.utils.constants import (
            TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as TARGETS,
        )

        family = str(model.backbone.config.model_type)  # type: ignore[union-attr]
        family = "roberta" if family == "xlm-roberta" else family
        if family in TARGETS:
            return TARGETS[family], FEED_FORWARD[family]
        layers = [name.removeprefix("backbone.").removesuffix(".weight") for name in block_linear_layers(model)]
        keys = [path for path in layers if path.endswith(tuple(f".{end}" for end in _KEYS_AND_VALUES))]
        outputs = [path for path in layers if path.endswith(tuple(f".{end}" for end in _FEED_FORWARD))]
        outputs = outputs or [
            path
            for path in layers
            if path.endswith(f".{_BERT_FEED_FORWARD}") and not path.endswith(f".attention.{_BERT_FEED_FORWARD}")
        ]
        if not keys or not outputs:
            raise UsageError(
                f"method=ia3: the layers to rescale in models of type {family} are unknown; take another method, or a "
                f"model of a type such as {', '.join(sorted(TARGETS)[:4])}"
            )
        return [*keys, *outputs], outputs

    def export(self, model: TransferModel, header: ModuleHeader) -> ModuleArtefact:
        factors: dict[str, Tensor] = {}
        sizes: dict[str, tuple[int, ...]] = {}
        for path, layer in self._layers.items():
            factor, base = on_cpu(layer.ia3_l[ADAPTER]), layer.get_base_layer()
            if is_transposed(base):  # its weight is (in, out), while peft's factor is for one of (out, in)
                factor = factor.t()
            factors[f"{path}.weight"], sizes[f"{path}.weight"] = factor, tuple(base.weight.shape)
            if base.bias is not None and not layer.is_feedforward:
                factors[f"{path}.bias"], sizes[f"{path}.bias"] = factor.view(-1), tuple(base.bias.shape)
        return Rescaling(dataclasses.replace(header, kind=Rescaling.kind), factors, sizes, trained_head(model))
