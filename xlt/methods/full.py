"""Full fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from xlt.config import RunFacts, key
from xlt.methods.dense import DenseMethod, tunable_names
from xlt.methods.method import Phase, Setting
from xlt.models.transfer import TransferModel


@dataclass
class FullConfig:
    """Settings of full fine-tuning."""

    _target_: str = "xlt.methods.full.Full"
    freeze_layer_norm: bool = key("whether layer normalisation stays fixed (thesis §4.4.2)", recipe=True)
    untie_embeddings: bool = key("language modules: whether output embeddings are untied and fixed (thesis §4.4.2)")

    def unused(self, facts: RunFacts) -> Iterator[str]:
        """What becomes of the output embeddings of a task module."""
        if not facts.adapts_language:
            yield "untie_embeddings"


SCHEMA = FullConfig


class Full(DenseMethod):
    """A method that trains every parameter.

    Its module is the difference at every entry (density 1), so that it composes like any other module. Without
    `untie_embeddings`, a language run trains the output embeddings together with the input embeddings to which they
    are tied, as pre-training does.
    """

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
        self.train_tensors(model, names)
