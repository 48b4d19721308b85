"""BitFit, which trains bias terms only (Ben Zaken et al., 2022; thesis §4.4.1)."""

from __future__ import annotations

from dataclasses import dataclass

from xlt.errors import UsageError
from xlt.methods.dense import DenseMethod, tunable_names
from xlt.methods.method import Phase, Setting
from xlt.models.transfer import TransferModel


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

    def attach(self, model: TransferModel, phase: Phase, setting: Setting) -> None:
        names = tunable_names(model, adapts_language=setting.adapts_language, freeze_layer_norm=True)
        biases = [name for name in names if name.startswith("backbone.") and name.endswith(".bias")]
        if not biases:
            raise UsageError(
                f"method=bitfit: model {model.base_name} has no bias terms outside layer normalisation, "
                "so there is nothing to train: choose another method"
            )
        self.train_tensors(model, biases)
