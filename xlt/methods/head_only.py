"""Training of the task head alone, on a body that stays as it is: where runs whose modules are averaged begin."""

from __future__ import annotations

from dataclasses import dataclass

from xlt.errors import UsageError
from xlt.methods.dense import DenseMethod
from xlt.methods.method import Phase, Setting, head_parameters
from xlt.models.transfer import TransferModel


@dataclass
class HeadOnlyConfig:
    """Training of the head; it has no hyperparameters of its own."""

    _target_: str = "xlt.methods.head_only.HeadOnly"


SCHEMA = HeadOnlyConfig


class HeadOnly(DenseMethod):
    """A method that trains the task head and nothing else.

    Runs of other methods that start from its module begin with this head (`start.run`). Their heads are then related,
    so that the modules of several such runs have an average (Schmidt et al., 2023).

    Attributes:
        leaves_head: its module is a head, from which every method can start.
    """

    name = "head_only"
    leaves_head = True

    def check_model(self, model: TransferModel, *, adapts_language: bool) -> None:
        if adapts_language:
            raise UsageError("method=head_only: language modelling has no head of its own; take another method")

    def attach(self, model: TransferModel, phase: Phase, setting: Setting) -> None:
        self.check_model(model, adapts_language=setting.adapts_language)
        if not head_parameters(model):
            raise UsageError("method=head_only: the task has no head of its own to train; take another method")
        self.train_tensors(model, [])
