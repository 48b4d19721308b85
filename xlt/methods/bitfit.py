"""BitFit, which trains bias terms only (Ben Zaken et al., 2022; thesis §4.4.1)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from xlt.errors import UsageError
from xlt.methods.dense import DenseMethod, tunable_names
from xlt.methods.method import Phase, Setting
from xlt.models.transfer import TransferModel, layer_norm_parameters


@dataclass
class BitFitConfig:
    """BitFit; it has no hyperparameters of its own."""

    _target_: str = "xlt.methods.bitfit.BitFit"


SCHEMA = BitFitConfig


class BitFit(DenseMethod):
    """A method that trains the biases of the backbone's linear layers.

    The biases of layer normalisation and of the language-model head stay fixed. Only with this choice does mBERT have
    the trainable share of 0.047% in thesis §4.4.2 (82,944 of 178M parameters; XLM-R: 0.030%).
    """

    name = "bitfit"

    def check_model(self, model: TransferModel, *, adapts_language: bool) -> None:
        if not _biases(dict(model.named_parameters()).keys() - layer_norm_parameters(model)):
            raise UsageError(
                f"method=bitfit: model {model.base_name} has no bias terms outside layer normalisation, "
                "so there is nothing to train: choose another method"
            )

    def attach(self, model: TransferModel, phase: Phase, setting: Setting) -> None:
        self.check_model(model, adapts_language=setting.adapts_language)
        names = tunable_names(model, adapts_language=setting.adapts_language, freeze_layer_norm=True)
        self.train_tensors(model, _biases(names))


def _biases(names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith("backbone.") and name.endswith(".bias")]
