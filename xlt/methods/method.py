"""The interface between the engine and a training method, which is the main extension point of xlt.

A method defines the phases of training, the trainable tensors of each phase, what happens before and after a step, and
the module that results. It depends on models and modules, but on no task and no data set.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypedDict

import torch
from torch import Tensor, nn

from xlt.errors import UsageError
from xlt.models.transfer import TransferModel, block_linear_layers, stored_shape
from xlt.modules import ModuleArtefact, ModuleHeader, SparseDelta

HEAD = "head."


@dataclass(frozen=True)
class Phase:
    """A part of training with its own optimiser and schedule.

    Attributes:
        name: unique in the run; it is part of the names of the phase's random streams.
        steps: number of optimiser updates.
        learning_rate: peak rate of the schedule.
    """

    name: str
    steps: int
    learning_rate: float


@dataclass(frozen=True)
class Budget:
    """How long a phase lasts and how fast it learns, as `train` says.

    Attributes:
        steps_per_epoch: optimiser updates in one pass over the mix.
        epochs: passes over the mix; None: `max_steps` alone counts.
        max_steps, min_steps: bounds of a phase's steps; no upper one if None.
        learning_rate: peak rate.
    """

    steps_per_epoch: int
    epochs: float | None
    max_steps: int | None
    min_steps: int
    learning_rate: float

    def phase(
        self,
        name: str,
        *,
        epochs: float | None = None,
        max_steps: int | None = None,
        learning_rate: float | None = None,
    ) -> Phase:
        """A phase; what a method does not give is as `train` says."""
        epochs, max_steps = epochs or self.epochs, max_steps or self.max_steps
        by_epochs = math.inf if epochs is None else math.ceil(epochs * self.steps_per_epoch)
        steps = max(min(by_epochs, math.inf if max_steps is None else max_steps), self.min_steps, 1)
        return Phase(name, int(steps), learning_rate or self.learning_rate)


@dataclass(frozen=True)
class MicroBatch:
    """The part of a training step that one forward pass has.

    Attributes:
        rows: numbers of its examples among those of the step; empty if this process has none of them.
        count: number of examples of the step, of all processes together.
        random: a generator at the beginning of the step's stream, the same for all micro-batches and processes.
    """

    rows: Sequence[int]
    count: int
    random: torch.Generator


@dataclass(frozen=True)
class Setting:
    """The facts about a run that its method needs.

    Attributes:
        adapts_language: whether the run trains a language module; otherwise it trains a task module.
        random: returns the random stream of this run with the given name, see `xlt.data.streams`.
        micro_batches: whether a step is divided into micro-batches.
        processes: number of processes that share a step.
        languages: ISO 639-3 codes of the sources, sorted.
        described: for each source, name -> value of the features of its examples: task, language, and further ones.
        other: the module whose entries the method's own are chosen by, see `Method.overlaps_with`; None: there is none.
    """

    adapts_language: bool
    random: Callable[..., torch.Generator]
    micro_batches: bool = False
    processes: int = 1
    languages: Sequence[str] = ()
    described: Sequence[Mapping[str, str]] = ()
    other: ModuleArtefact | None = None

    @property
    def in_parts(self) -> bool:
        """Whether a step's gradients come in several parts, from micro-batches or processes."""
        return self.micro_batches or self.processes > 1


class _Counts(TypedDict):
    tuned_entries: int
    density: float


class ModuleReport(_Counts, total=False):
    """Numbers about a trained module.

    `result.json` has them under "module", where the engine adds `bytes`, the size of the module's file. W&B shows all
    of them in a run's summary, as `module/NAME`.

    Attributes:
        tuned_entries: how many numbers were trained; the task head is left out.
        density: tuned entries / parameters of the pre-trained model, a fraction, not a percentage. Above 0; a generator
            of adapters may have more than 1. Figures of kind `sizes` put scores over it.
        shared_entries: how many of the tuned entries are also entries of `Setting.other`; only if there is one.
    """

    shared_entries: int


class Method(ABC):
    """A training method: it makes a model trainable, and makes a module of the trained model.

    In each phase the engine calls `attach` first. For each step it calls `write`, and for each of its micro-batches
    `examples`, `loss` and `after_backward`; then `before_step` (before clipping) and `after_step`. It also calls
    `write` and `examples` before each validation, `write` after the last step, and `export` at the end. It also calls
    `export` once before the first step.

    Attributes:
        name: as in `conf/method` and in module headers.
        leaves_checkpoint: whether the run also stores the whole model, from which other runs can start.
        starts_from_modules: whether the method has a `start_from`.
        averages: whether the trainable tensors mean the same entries in all steps, so that they have a mean.
        leaves: class of the module that `export` makes; the header that `export` gets has its kind.
        packages: optional package that the method imports -> extra of xlt that installs it.
        spreads: whether the method can train a model whose blocks lie on several devices.
        wants_whole_steps: whether a step is divided only where the user asks for it, because several parts of a step
            need more memory.

    `leaves_checkpoint`, `starts_from_modules`, `averages`, `leaves`, `packages`, `spreads`, `name_of` and
    `overlaps_with` are facts of the class: a plan reads them without building the method.
    """

    name: str
    leaves_checkpoint: bool = False
    starts_from_modules: bool = False
    averages: bool = True
    leaves: type[ModuleArtefact] = SparseDelta
    packages: ClassVar[Mapping[str, str]] = {}
    spreads: ClassVar[bool] = False
    wants_whole_steps: ClassVar[bool] = False

    @classmethod
    def name_of(cls, config: Any) -> str:
        """The name of a method with these settings; by default the class's.

        Args:
            config: of the method, an instance of its schema.
        """
        return cls.name

    @classmethod
    def overlaps_with(cls, config: Any) -> str | None:
        """Returns the language whose module's entries the method's own are chosen by; None: those of no module.

        The run then stands on this language's module, which must be a sparse delta; `attach` gets it in the setting.

        Args:
            config: of the method, an instance of its schema; the language is its `overlap_with`.
        """
        return None

    def phases(self, budget: Budget) -> list[Phase]:
        """Returns the phases of a run in their order; by default there is one."""
        return [budget.phase("train")]

    def start_from(self, module: ModuleArtefact) -> None:
        """Makes training begin with the values of a module; called before the first `attach`.

        Raises:
            ValueError: the module has another kind or shape than those of this method.
        """
        raise ValueError(f"method {self.name} cannot start from a module: remove the start module from the config")

    @abstractmethod
    def attach(self, model: TransferModel, phase: Phase, setting: Setting) -> None:
        """Prepares `model` for a phase: freezes parameters, inserts networks. The model's output must not change.

        In the first phase of a process, `model` is the base model with the source-language module applied and the task
        head initialised. In later phases it is the model at the end of the phase before.
        """

    @abstractmethod
    def trainable(self) -> dict[str, nn.Parameter]:
        """Returns name -> tensor that the optimiser updates in this phase, always in the same order."""

    def optimizer(self, trainable: Mapping[str, nn.Parameter], rate: float, decay: float) -> torch.optim.Optimizer:
        """Returns a new optimiser for the phase's trainable tensors; by default Adam with decoupled weight decay.

        The parameter group of the task head's tensors has `head=True`, because the head may have a rate of its own.

        Args:
            trainable: name -> tensor, as `trainable` returned it.
            rate: learning rate, >= 0.
            decay: weight decay, >= 0.
        """
        parts = {
            is_head: [p for name, p in trainable.items() if name.startswith(HEAD) is is_head]
            for is_head in (False, True)
        }
        groups = [{"params": part, "head": is_head} for is_head, part in parts.items() if part]
        return torch.optim.AdamW(groups, lr=rate, weight_decay=decay, fused=True)

    def steps_fault(self, steps: int) -> str | None:
        """Returns why the method could not do its work in a phase of so many steps, in a line; None if it can.

        It is called when a run is planned, with the largest number of steps (`train.max_steps`), if there is one; and
        for each phase before the first one begins, with its true number.
        """
        return None

    def division_fault(self, processes: int, *, micro_batches: bool) -> str | None:
        """Returns why the method cannot learn from steps that are divided so, in a line; None if it can, as most can.

        It is called before anything is loaded.

        Args:
            processes: number of processes that share a step.
            micro_batches: whether the part of a process is divided further.
        """
        return None

    def check_model(self, model: TransferModel, *, adapts_language: bool) -> None:  # noqa: B027
        """Refuses a model that the method cannot adapt; called when a run is planned, and by `attach`.

        It looks at modules and their names only, because a planned run's model has no weights yet: its tensors are on
        the meta device. It changes nothing.

        Raises:
            UsageError: the model lacks what the method trains.
        """

    def language_faults(self, languages: Iterable[str]) -> list[str]:
        """Returns for each language from which the method cannot learn a line with the reason.

        It is called before anything is loaded.
        """
        return []

    def feature_faults(self, learned: Iterable[Mapping[str, str]], asked: Mapping[str, Mapping[str, str]]) -> list[str]:
        """Returns why the method cannot learn from examples with some features, or be used for others; a line each.

        It is called before anything is loaded.

        Args:
            learned: for each training source, name -> value of the features of its examples.
            asked: key of a source for validation or evaluation -> name -> value of the features of its examples.
        """
        return []

    def whole_fault(self, learned: Iterable[Mapping[str, str]]) -> str | None:
        """Returns why the module cannot be applied for examples of all features alike; None if it can, as most can.

        It is called before anything is loaded.

        Args:
            learned: for each training source, name -> value of the features of its examples.
        """
        return None

    @classmethod
    def mixes_languages(cls) -> bool:
        """Returns whether a batch may have examples in several languages; by default unless `language` is defined."""
        return cls.language is Method.language

    def examples(self, described: Sequence[Mapping[str, str]], part: MicroBatch | None = None) -> None:
        """Announces the features of the examples of the following batches; called after `write`.

        By default it calls `language`, if all examples are in one language.

        Args:
            described: of each example of a step, or of a batch for validation, name -> value of its features. A single
                entry holds for all examples.
            part: in training, the examples of the step that the following micro-batch has; None in validation.
        """
        languages = {one["language"] for one in described}
        if len(languages) == 1:
            self.language(languages.pop())

    def language(self, code: str) -> None:  # noqa: B027
        """Announces the ISO 639-3 code of the language of the following batches.

        A method that defines it gets batches of one language only.
        """

    def untouched(self) -> Collection[str]:
        """Returns the names of the trainable tensors that no example of this step uses, in any process.

        They must have no gradient, so that the optimiser leaves their values and its own state as they are.
        """
        return ()

    def loss(self, model: TransferModel, batch: Mapping[str, Tensor], loss: Callable[..., Tensor]) -> Tensor:
        """Returns the training loss of a micro-batch. `loss(model, batch)` is the task's loss, a sum over targets."""
        return loss(model, batch)

    def after_backward(self) -> None:  # noqa: B027
        """Is called once per micro-batch, after its backward pass."""

    def partial_sums(self) -> Iterable[Tensor]:
        """Returns tensors that must be summed over processes, as gradients are.

        It is called once per step, before `before_step`.
        """
        return ()

    def before_step(self) -> None:  # noqa: B027
        """Is called once per step, when the gradients are complete and summed over processes, before clipping."""

    def after_step(self, clipping: float) -> None:  # noqa: B027
        """Is called once per step, after the optimiser; `clipping` <= 1 is the factor that clipped the gradients."""

    def write(self, base: Mapping[str, Tensor] | None = None) -> None:  # noqa: B027
        """Writes the trainable values into the model's weights; called before each use of the weights.

        Args:
            base: name -> (N,) base values, of the current source language, at the entries that `written_entries`
                names. None means the values that these entries had at `attach`.
        """

    def written_entries(self) -> Mapping[str, Tensor] | None:
        """Returns name -> (N,) flat indices of the entries of frozen tensors that `write` sets.

        They must stay the same for the whole phase. A method whose entries change within a phase returns None; then
        the engine writes a source language's values over those that `write` wrote.
        """
        return {}

    def state(self) -> dict[str, Tensor]:
        """Returns the tensors that a resumed run needs besides trainable values, optimiser state and position."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:  # noqa: B027
        """Restores what `state` returned.

        It is called before `attach` in a resumed run, and after it when a phase's best checkpoint is restored.
        """

    @abstractmethod
    def export(self, model: TransferModel, header: ModuleHeader) -> ModuleArtefact:
        """Returns the trained module, with its tensors on the CPU; changes nothing.

        It is also called right after the first `attach` of a new run, also if there are further phases, and the result
        is thrown away: a method or model whose module cannot be made must fail before the training, not after it.

        Raises:
            UsageError, ValueError: no module can be made for this model.
        """

    @abstractmethod
    def report(self) -> ModuleReport:
        """Says how large the trained module is; called once, after `export`."""


def chosen_linear_layers(method: str, model: TransferModel, names: Collection[str]) -> dict[str, Any]:
    """Returns name of the weight -> layer, for the linear layers of the blocks that a method trains.

    Args:
        method: its name, for messages.
        model: any.
        names: ends of the layers' names, such as `query` or `attention.output.dense`; empty: all layers.
    Raises:
        UsageError: the blocks have no linear layers, or none with one of the names.
    """
    refuse_without_linear_layers(method, model)
    layers = block_linear_layers(model)
    ends = {weight: f".{weight.removesuffix('.weight')}" for weight in layers}
    for name in names:
        if not any(end.endswith(f".{name}") for end in ends.values()):
            there = dict.fromkeys(end.rpartition(".")[2] for end in ends.values())
            raise UsageError(
                f"method.layers={name}: no linear layer of the blocks of model {model.base_name} has a name that ends "
                f"so; the names end in {', '.join(there)}"
            )
    chosen = tuple(f".{name}" for name in names)
    return {weight: layer for weight, layer in layers.items() if not names or ends[weight].endswith(chosen)}


def refuse_large_rank(given: str, rank: int, layers: Mapping[str, Any], model: TransferModel) -> None:
    """Refuses a rank of low-rank deltas that is larger than a matrix can have.

    Args:
        given: the key and its value, for the message.
        rank: of the deltas.
        layers: name of the weight -> linear layer.
        model: whose layers they are.
    Raises:
        UsageError: a layer has fewer inputs or outputs.
    """
    shapes = {weight: tuple(stored_shape(layer)) for weight, layer in layers.items()}
    smallest = min(shapes, key=lambda weight: min(shapes[weight]))
    if rank > (most := min(shapes[smallest])):
        rows, columns = shapes[smallest]
        raise UsageError(
            f"{given}: {smallest} of model {model.base_name} is {rows} x {columns}, and no delta of it can have a rank "
            f"above {most}; give {most} or less, or choose other layers with method.layers"
        )


def refuse_without_linear_layers(method: str, model: TransferModel) -> None:
    """Refuses a model for a method that trains the linear layers of its blocks.

    Raises:
        UsageError: the blocks have no linear layers.
    """
    if not block_linear_layers(model):
        raise UsageError(
            f"method={method}: model {model.base_name} has no linear layers in its blocks, so there is nothing to "
            "train: choose another method"
        )


def head_parameters(model: TransferModel) -> dict[str, nn.Parameter]:
    """Returns name -> parameter of the task head, which is always trained in full (thesis §4.3.2)."""
    return {name: parameter for name, parameter in model.named_parameters() if name.startswith(HEAD)}


def trained_head(model: TransferModel) -> dict[str, Tensor]:
    """Returns name -> copy of the task head's tensors on the CPU, for a module."""
    return {name: parameter.detach().cpu().clone() for name, parameter in head_parameters(model).items()}


@torch.no_grad()
def write_head(model: TransferModel, values: Mapping[str, Tensor]) -> None:
    """Writes the values of a head into that of a model, for good; `values` are named as by `trained_head`.

    Raises:
        ValueError: the model has no such head.
    """
    own = head_parameters(model)
    if own.keys() != values.keys():
        raise ValueError(f"its head has {', '.join(values) or 'nothing'}, the task's {', '.join(own) or 'nothing'}")
    for name, parameter in own.items():
        parameter.copy_(values[name])
