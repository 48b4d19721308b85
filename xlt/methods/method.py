"""What the engine asks of a method: the one extension point of xlt.

A method says which phases training has, what is trainable in each, what happens around a step, and what module comes
out. It knows models and modules, and neither tasks nor data sets.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from xlt.models.transfer import TransferModel
from xlt.modules import ModuleArtefact, ModuleHeader, SparseDelta

HEAD = "head."


@dataclass(frozen=True)
class Phase:
    """One stretch of training with its own optimiser and schedule.

    Attributes:
        name: unique in the run; names the random streams of the phase.
        steps: optimiser updates.
        learning_rate: peak rate.
    """

    name: str
    steps: int
    learning_rate: float


@dataclass(frozen=True)
class Budget:
    """How long a phase may last, as the recipe says.

    Attributes:
        steps, learning_rate: of an ordinary phase.
        dense_steps, dense_learning_rate: of a full fine-tuning phase that only prepares a sparse one.
    """

    steps: int
    learning_rate: float
    dense_steps: int
    dense_learning_rate: float

    def phase(self, name: str) -> Phase:
        return Phase(name, self.steps, self.learning_rate)

    def dense_phase(self, name: str) -> Phase:
        return Phase(name, self.dense_steps, self.dense_learning_rate)


@dataclass(frozen=True)
class Setting:
    """What a method is told about the run it serves.

    Attributes:
        adapts_language: the run leaves a language module, not a task module.
        random: makes the named random stream of this run, see `xlt.data.streams`.
        in_parts: a step's gradients come in several parts, from micro-batches or processes.
        languages: ISO 639-3 codes of the sources, sorted.
    """

    adapts_language: bool
    random: Callable[..., torch.Generator]
    in_parts: bool = False
    languages: Sequence[str] = ()


class Method(ABC):
    """Turns a model into a trainable one, and the trained model into a module.

    The engine calls, for each phase: `attach`, then for each step `language`, `write`, `loss` and `after_backward`
    (once a micro-batch), `before_step` (once, before clipping) and `after_step`; `language` and `write` also before
    each validation, `write` after the last step; at the end `export`.

    Attributes:
        name: as in `conf/method`, and in module headers.
        leaves_checkpoint: the run leaves a whole model beside the module, for other runs to start from.
        starts_from_modules: it has a `start_from`.
        leaves: class of the module that `export` makes; of its kind is the header that `export` gets.

    `leaves_checkpoint`, `starts_from_modules`, `leaves` and `name_of` are facts of the class: a plan reads them without
    building the method.
    """

    name: str
    leaves_checkpoint: bool = False
    starts_from_modules: bool = False
    leaves: type[ModuleArtefact] = SparseDelta

    @classmethod
    def name_of(cls, config: Any) -> str:
        """The name of a method with these settings; by default the class's.

        Args:
            config: of the method, an instance of its schema.
        """
        return cls.name

    def phases(self, budget: Budget) -> list[Phase]:
        """The phases of a run, in order; by default one."""
        return [budget.phase("train")]

    def start_from(self, module: ModuleArtefact) -> None:
        """Lets training begin with a module's values in place of fresh ones; before the first `attach`.

        Raises:
            ValueError: a module of another kind or shape than this method makes.
        """
        raise ValueError(f"method {self.name} begins with fresh values")

    @abstractmethod
    def attach(self, model: TransferModel, phase: Phase, setting: Setting) -> None:
        """Prepares `model` for a phase: freezes, injects, masks. Leaves the model's output as it was.

        Called with the base model (source-language module in place, task head drawn) at the first phase of a
        process, and with the model as the last phase left it at the others.
        """

    @abstractmethod
    def trainable(self) -> dict[str, nn.Parameter]:
        """Name -> what the optimiser updates in the present phase; a fixed order."""

    def optimizer(self, trainable: Mapping[str, nn.Parameter], rate: float, decay: float) -> torch.optim.Optimizer:
        """A fresh optimiser of the phase's trainable tensors, Adam with decoupled decay if nothing else is said.

        A group of the task head's tensors says so, `head=True`: it may have a rate of its own.
        """
        parts = {
            is_head: [p for name, p in trainable.items() if name.startswith(HEAD) is is_head]
            for is_head in (False, True)
        }
        groups = [{"params": part, "head": is_head} for is_head, part in parts.items() if part]
        return torch.optim.AdamW(groups, lr=rate, weight_decay=decay, fused=True)

    def language_faults(self, languages: Iterable[str]) -> list[str]:
        """Why the method cannot learn from sources in these languages, a line each; asked before anything is loaded."""
        return []

    def language(self, code: str) -> None:  # noqa: B027
        """The ISO 639-3 code of what passes through the model from now on; before `write`."""

    def loss(self, model: TransferModel, batch: Mapping[str, Tensor], loss: Callable[..., Tensor]) -> Tensor:
        """The training loss of a micro-batch; `loss(model, batch)` is the task's, a sum over targets."""
        return loss(model, batch)

    def after_backward(self) -> None:  # noqa: B027
        """Once a micro-batch, after its backward pass."""

    def partial_sums(self) -> Iterable[Tensor]:
        """What must be summed over processes as the gradients are, once a step, before `before_step`."""
        return ()

    def before_step(self) -> None:  # noqa: B027
        """Once a step, gradients complete and summed over processes, before clipping."""

    def after_step(self, clipping: float) -> None:  # noqa: B027
        """Once a step, after the optimiser; `clipping` is what the gradients were multiplied with, at most 1."""

    def write(self, base: Mapping[str, Tensor] | None = None) -> None:  # noqa: B027
        """Brings the model's weights in line with the trainable values; called before each use of the weights.

        Args:
            base: name -> (N,) what to write onto at the entries that `rewritten` names, where that is not what
                `attach` found there: a language's values. None: what it found.
        """

    def rewritten(self) -> Mapping[str, Tensor] | None:
        """Name -> (N,) flat indices of the frozen tensors' entries that `write` sets, the same all phase long.

        None where they may change within the phase; then source languages are written over what `write` wrote.
        """
        return {}

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs besides trainable values, optimiser and position."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:  # noqa: B027
        """Takes back what `state` gave: before `attach` in a resumed run, after it with a phase's best checkpoint."""

    @abstractmethod
    def export(self, model: TransferModel, header: ModuleHeader) -> ModuleArtefact:
        """The module that training made, tensors on the CPU."""

    def report(self) -> dict[str, float]:
        """Numbers about the trained module for the manifest (how many entries, what density)."""
        return {}


def head_parameters(model: TransferModel) -> dict[str, nn.Parameter]:
    """The task head's parameters by their names in the model; always trained in full (thesis §4.3.2)."""
    return {name: parameter for name, parameter in model.named_parameters() if name.startswith(HEAD)}


def trained_head(model: TransferModel) -> dict[str, Tensor]:
    """Copies of the head's tensors for a module."""
    return {name: parameter.detach().cpu().clone() for name, parameter in head_parameters(model).items()}
