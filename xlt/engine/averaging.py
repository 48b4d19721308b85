"""The weights that a phase ends with if they are a mean over its steps: checkpoint averaging, or a moving average."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from xlt.config import TrainConfig
from xlt.engine.state import RunState


class Averaging(Protocol):
    """A mean of the trainable tensors over the steps of a phase."""

    def after_step(self, trainable: Mapping[str, nn.Parameter]) -> None:
        """Is called after each update."""

    def after_validation(self, step: int, trainable: Mapping[str, nn.Parameter]) -> None:
        """Is called after each validation, with the number of steps done; only by the process that writes files."""

    def state(self) -> Mapping[str, Tensor]:
        """Returns the tensors that a resumed run needs."""

    def mean(self) -> dict[str, Tensor]:
        """Returns name -> mean, in the dtype of the trainable tensor; only in the process that writes files."""


class MovingAverage:
    """An exponential moving average: after a step it is `decay` times what it was, plus (1 - `decay`) times the values.

    It begins with the values after the first step, and is kept in float32.
    """

    def __init__(self, decay: float, saved: Mapping[str, Tensor]) -> None:
        self._decay = decay
        self._values = dict(saved)
        self._dtypes: dict[str, torch.dtype] = {}

    @torch.no_grad()
    def after_step(self, trainable: Mapping[str, nn.Parameter]) -> None:
        for name, parameter in trainable.items():
            self._dtypes[name] = parameter.dtype
            if name in self._values:
                held = self._values[name].to(parameter.device)
                self._values[name] = held.lerp_(parameter.detach().float(), 1 - self._decay)
            else:
                self._values[name] = parameter.detach().float().clone()

    def after_validation(self, step: int, trainable: Mapping[str, nn.Parameter]) -> None:
        pass

    def state(self) -> Mapping[str, Tensor]:
        return self._values

    def mean(self) -> dict[str, Tensor]:
        return {name: value.to(self._dtypes[name]) for name, value in self._values.items()}


class CheckpointMean:
    """The mean of the values at the last validations of a phase, all with the same weight.

    The values at each of these validations are in a file of the run's folder until the run is finished, so that a run
    that is killed and resumed averages the same ones.

    Args:
        state: of the run.
        phase: name of the phase.
        steps: after which the phase is validated, in their order.
        last: number of the last validations that count; None: all.
    """

    def __init__(self, state: RunState, phase: str, steps: list[int], last: int | None) -> None:
        self._state, self._phase = state, phase
        self._steps = steps if last is None else steps[-last:]

    def after_step(self, trainable: Mapping[str, nn.Parameter]) -> None:
        pass

    def after_validation(self, step: int, trainable: Mapping[str, nn.Parameter]) -> None:
        if step in self._steps:
            self._state.keep(self._phase, step, trainable)

    def state(self) -> Mapping[str, Tensor]:
        return {}

    def mean(self) -> dict[str, Tensor]:
        sums: dict[str, Tensor] = {}
        dtypes: dict[str, torch.dtype] = {}
        for step in self._steps:
            for name, value in self._state.kept(self._phase, step).items():
                dtypes[name] = value.dtype
                sums[name] = sums[name] + value if name in sums else value.double()
        return {name: (total / len(self._steps)).to(dtypes[name]) for name, total in sums.items()}


def averaging_of(
    recipe: TrainConfig, state: RunState, phase: str, validated: list[int], saved: Mapping[str, Tensor]
) -> Averaging | None:
    """Returns what averages the weights of a phase; None if it ends with its best checkpoint.

    Args:
        recipe: says which mean.
        state: of the run.
        phase: name of the phase.
        validated: steps after which the phase is validated.
        saved: what `Averaging.state` returned in the run that is resumed; empty at the beginning of a phase.
    """
    if recipe.averaging == "ema":
        return MovingAverage(recipe.ema_decay, saved)
    if recipe.averaging == "checkpoints":
        return CheckpointMean(state, phase, validated, recipe.average_last)
    return None
