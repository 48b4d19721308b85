"""A ledger of memory: the bytes of all tensors while a trainer trains, and what they are for.

A tensor's bytes count from when torch makes its storage until it is freed. So the numbers are exact and the same each
time; they have nothing that an allocator adds, nor what a single operation of torch needs inside.
"""

from __future__ import annotations

import contextlib
import itertools
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from benchmark.trainers import StepClock, train
from xlt.engine.training import Trainer

WEIGHTS, TRAINED, MOMENTS, GRADIENTS = "weights", "trained", "moments", "gradients"
KEPT, ACTIVATIONS, TEMPORARY = "kept", "activations", "temporary"
CATEGORIES = (WEIGHTS, TRAINED, MOMENTS, GRADIENTS, KEPT, ACTIVATIONS, TEMPORARY)
"""What bytes are for.

weights: the pre-trained model's tensors, also if they are packed in 4 bits. trained: what the optimiser updates beside
them: deltas, inserted networks, masters in float32. moments: the optimiser's state. gradients: of what is trained.
kept: what a method has besides from one step to the next: indices, displaced and starting values, candidates.
activations: what a forward pass leaves for its backward pass. temporary: the rest, recomputed activations among it.
"""

_GROWTH = 1.005  # the peak's parts are noted again when it has grown by half a percent


class Ledger(TorchDispatchMode):
    """Counts the bytes of the tensors that are made inside, and of those that are added.

    Attributes:
        live: number of a storage -> its bytes; no two storages have the same number.
        total, peak: bytes in use now, and at most since `restart`.
        on_growth: is called when the peak has grown by half a percent.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, int] = {}
        self.total = self.peak = 0
        self.on_growth: Callable[[], None] = lambda: None
        self._noted = 0.0
        self._numbers: dict[int, int] = {}
        self._references: dict[int, weakref.ref[Any]] = {}
        self._next = itertools.count()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        out = self.call(func, args, kwargs or {})
        for value in tree_iter(out):
            if isinstance(value, Tensor):
                self.add(value)
        return out

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Carries out an operation of torch."""
        return func(*args, **kwargs)

    def restart(self, on_growth: Callable[[], None]) -> None:
        """Begins with what is in use now."""
        self.peak, self._noted, self.on_growth = self.total, 0.0, on_growth
        self._grow()

    def numbers_of(self, tensors: Iterable[Tensor]) -> set[int]:
        """Returns the numbers of the tensors' storages, which are counted if they were not."""
        return {number for tensor in tensors if (number := self.add(tensor)) is not None}

    def add(self, tensor: Tensor) -> int | None:
        """Counts a tensor's storage, if it is not counted yet, and returns its number; None if it has no bytes."""
        if tensor.layout is not torch.strided or tensor.device.type == "meta":
            return None  # the parts of a sparse tensor were counted when they were made
        storage = tensor.untyped_storage()
        address, size = storage._cdata, storage.nbytes()
        if address in self._numbers or not size:
            return self._numbers.get(address)
        number = self._numbers[address] = next(self._next)
        self.live[number] = size
        self._references[number] = weakref.ref(storage, lambda _: self._free(address, number))
        self.total += size
        self._grow()
        return number

    def _grow(self) -> None:
        self.peak = max(self.peak, self.total)
        if self.peak > _GROWTH * self._noted:
            self._noted = self.peak
            self.on_growth()

    def _free(self, address: int, number: int) -> None:
        self.total -= self.live.pop(number)
        del self._references[number]
        if self._numbers.get(address) == number:
            del self._numbers[address]


@dataclass
class Peak:
    """The most bytes that were in use at a time.

    Attributes:
        parts: category -> bytes; together they are the peak.
        moment: phase, number and stage of the step, for instance `train 3, backward`; `start` while a method is
            attached.
        trained: how many numbers the optimiser updated then.
    """

    parts: dict[str, int]
    moment: str = "start"
    trained: int = 0

    @property
    def total(self) -> int:
        return sum(self.parts.values())


@dataclass
class _Snapshot:
    live: dict[int, int]
    category: dict[int, str]
    moment: str
    trained: int
    in_forward: bool
    activations: set[int] = field(default_factory=set)


class _Enough(Exception):
    """Ends a training of which the further steps are not needed."""


class _Steps(StepClock):
    """A watcher that knows the present step, and ends the training after a given one."""

    def __init__(self, last: tuple[str, int] | None) -> None:
        super().__init__()
        self._last_step = last
        self.now = "start"

    def begin_phase(self, name: str, start: int, steps: int) -> None:
        self.now = f"{name} {start + 1}"

    def metrics(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        if (phase, step) == self._last_step:
            raise _Enough
        self.now = f"{phase} {step + 1}"


def peak_of(trainer: Trainer, ledger: Ledger, last: tuple[str, int] | None = None) -> Peak:
    """Trains without validation or saved state, and returns the peak; the arguments are those of `peaks_of`."""
    return max(peaks_of(trainer, ledger, last).values(), key=lambda peak: peak.total)


def peaks_of(trainer: Trainer, ledger: Ledger, last: tuple[str, int] | None = None) -> dict[str, Peak]:
    """Trains without validation or saved state, and returns the peak of every moment; called inside the ledger.

    A moment is a stage of a step: the forward passes, the backward passes with what follows them, or the update with
    what follows it.

    Args:
        trainer: with an untouched method, whose `loss` and `optimizer` are replaced.
        ledger: is active.
        last: phase and step after which the training ends; None: it goes on to the end.
    """
    observer = _Observer(trainer, ledger, _Steps(last))
    for name in ("_validate", "_state_after_phase"):
        setattr(trainer, name, lambda *_: None)
    method = trainer.method
    setattr(method, "loss", observer.around_loss(method.loss))  # noqa: B010
    setattr(method, "optimizer", observer.around_optimizer(method.optimizer))  # noqa: B010
    ledger.restart(observer.note)
    with contextlib.suppress(_Enough):
        train(trainer, observer.steps)
    observer.end_stage()
    ledger.on_growth = lambda: None
    return observer.peaks


class _Observer:
    """What must be known of a training to say what each storage is for."""

    def __init__(self, trainer: Trainer, ledger: Ledger, steps: _Steps) -> None:
        self.trainer, self.ledger, self.steps = trainer, ledger, steps
        self.weights = ledger.numbers_of(_tensors_of(trainer.model))
        self.optimizer: torch.optim.Optimizer | None = None
        self.kept: set[int] = set()
        self.activations: set[int] = set()
        self.in_forward = False
        self.last: _Snapshot | None = None
        self.moment = "start"
        self.peaks: dict[str, Peak] = {}

    def around_loss(self, loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def noted(*arguments: Any) -> Tensor:
            self.kept, self.activations, self.in_forward = set(self.ledger.live), set(), True
            self.begin_stage("forward")
            value = loss(*arguments)
            self.in_forward, self.activations = False, self.ledger.live.keys() - self.kept
            if self.last is not None and self.last.in_forward:
                self.last.activations, self.last.in_forward = self.activations, False
            self.begin_stage("backward")
            return value

        return noted

    def around_optimizer(self, optimizer: Callable[..., torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
        def noted(*arguments: Any) -> torch.optim.Optimizer:
            self.optimizer = optimizer(*arguments)
            self.optimizer.register_step_pre_hook(lambda *_: self.begin_stage("update"))
            return self.optimizer

        return noted

    def begin_stage(self, stage: str) -> None:
        self.end_stage()
        self.moment = f"{self.steps.now}, {stage}"
        self.ledger.restart(self.note)

    def end_stage(self) -> None:
        """Keeps the peak of the stage that ends, if the same stage of this step has not had a larger one."""
        found = self.peak()
        if found.total > (self.peaks[found.moment].total if found.moment in self.peaks else 0):
            self.peaks[found.moment] = found

    def note(self) -> None:
        """Notes what the storages that are in use now are for."""
        category = dict.fromkeys(self.kept, KEPT)
        trainable: list[Tensor] = []
        if self.optimizer is not None:
            trainable = list(self.trainer.method.trainable().values())
            moments = (value for slots in self.optimizer.state.values() for value in slots.values())
            category.update(
                dict.fromkeys(self.ledger.numbers_of(part for part in moments if isinstance(part, Tensor)), MOMENTS)
            )
        category.update(dict.fromkeys(self.ledger.numbers_of(trainable), TRAINED))
        category.update(dict.fromkeys(self.weights, WEIGHTS))
        owners = [*trainable, *self.trainer.model.parameters()]
        gradients = self.ledger.numbers_of(owner.grad for owner in owners if owner.grad is not None)
        category.update(dict.fromkeys(gradients, GRADIENTS))
        entries = sum(tensor.numel() for tensor in trainable)
        live = dict(self.ledger.live)
        self.last = _Snapshot(live, category, self.moment, entries, self.in_forward, self.activations)

    def peak(self) -> Peak:
        """Returns the peak; what it grew by since the last note, less than half a percent, counts as temporary."""
        noted = self.last
        assert noted is not None
        parts = dict.fromkeys(CATEGORIES, 0)
        for key, size in noted.live.items():
            rest = ACTIVATIONS if key in noted.activations else TEMPORARY
            parts[noted.category.get(key, rest)] += size
        parts[TEMPORARY] += self.ledger.peak - sum(parts.values())
        return Peak(parts, noted.moment, noted.trained)


def _tensors_of(model: torch.nn.Module) -> list[Tensor]:
    """Returns a model's parameters and buffers, and what bitsandbytes keeps beside weights in 4 bits."""
    found: list[Tensor] = [*model.parameters(), *model.buffers()]
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        while state is not None:
            found += [part for part in (state.absmax, state.code, state.offset) if part is not None]
            state = state.state2 if state.nested else None
    return found
