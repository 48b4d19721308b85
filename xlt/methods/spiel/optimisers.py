"""Optimisers for deltas whose entries are replaced during training: their state follows the replacement."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from xlt_kernels.sm3 import sm3_step
from xlt_kernels.sparse_pattern import SparsePattern


def count_dtype(most: int) -> torch.dtype:
    """Returns the integer dtype of counts up to `most`, one per entry: of two bytes if they suffice, else of four."""
    return torch.int16 if most <= torch.iinfo(torch.int16).max else torch.int32


class EntryOptimiser(torch.optim.Optimizer):
    """An optimiser with state per entry of a delta, which can follow a replacement of entries.

    Weight decay is decoupled and acts on the deltas only, not on the task head's tensors (thesis §7.3.2).

    Args:
        deltas, head: name -> tensor.
        rate: learning rate; the engine sets it before each step.
        decay: weight decay of the deltas.
    """

    keeps_other_shapes = False

    def __init__(
        self, deltas: Mapping[str, nn.Parameter], head: Mapping[str, nn.Parameter], rate: float, decay: float
    ) -> None:
        groups = [
            {"params": list(part.values()), "decay": decay_of, "head": part is head}
            for part, decay_of in ((deltas, decay), (head, 0.0))
            if part
        ]
        super().__init__(groups, {"lr": rate})

    @abstractmethod
    def update(self, parameter: nn.Parameter, gradient: Tensor, rate: float, decay: float) -> None:
        """Does one step on one tensor, in place."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.update(parameter, parameter.grad, group["lr"], group["decay"])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Does what torch's method does, but restores each slot's dtype; torch would convert all to the delta's."""
        super().load_state_dict(state_dict)
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for number, slots in state_dict["state"].items():
            parameter = parameters[number]
            self.state[parameter] = {slot: value.to(parameter.device).clone() for slot, value in slots.items()}

    @torch.no_grad()
    def exchange(self, parameter: nn.Parameter, kept: Tensor, order: Tensor, seeds: Mapping[str, Tensor]) -> None:
        """Applies a replacement of entries to the state.

        Args:
            parameter: the delta.
            kept: (N,) bool, True for the old entries that stay.
            order: (N,) for each entry in the new order its place in the concatenation of kept and grown entries.
            seeds: slot -> initial values of the grown entries; other slots start at zero.
        """
        state = self.state[parameter]
        for slot in self._slots_by_entry():
            if slot in state:
                old = state[slot][kept]
                grown = seeds.get(slot, old.new_zeros(len(order) - len(old))).to(old)
                state[slot] = torch.cat([old, grown])[order]

    @abstractmethod
    def _slots_by_entry(self) -> tuple[str, ...]:
        """Returns the names of the state's slots that have one value per entry."""


class AgedAdam(EntryOptimiser):
    """Adam with a bias correction per entry, by the entry's age (thesis §7.3.1).

    The age is the number of gradients in the entry's moments. Moments have the deltas' dtype, float32 or float64; ages
    are integers.

    Args:
        deltas, head, rate, decay: as for `EntryOptimiser`.
        betas, epsilon: of Adam.
        most: the largest age that an entry can reach.
    """

    def __init__(
        self,
        deltas: Mapping[str, nn.Parameter],
        head: Mapping[str, nn.Parameter],
        rate: float,
        decay: float,
        betas: tuple[float, float],
        epsilon: float,
        most: int,
    ) -> None:
        super().__init__(deltas, head, rate, decay)
        self.betas, self.epsilon, self._ages = betas, epsilon, count_dtype(most)

    def update(self, parameter: nn.Parameter, gradient: Tensor, rate: float, decay: float) -> None:
        state = self.state[parameter]
        if not state:
            state["age"] = torch.zeros_like(parameter, dtype=self._ages)
            state["first"], state["second"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        first_beta, second_beta = self.betas
        age = state["age"].add_(1)
        first = state["first"].lerp_(gradient, 1 - first_beta)
        second = state["second"].mul_(second_beta).addcmul_(gradient, gradient, value=1 - second_beta)
        # phi -= rate * (m / (1 - b1^age)) / (sqrt(v / (1 - b2^age)) + eps)
        exact = age.to(torch.float64)
        first_bias, second_bias = ((1 - beta**exact).to(parameter.dtype) for beta in self.betas)
        parameter.mul_(1 - rate * decay)
        parameter.addcdiv_(first / first_bias, (second / second_bias).sqrt_().add_(self.epsilon), value=-rate)

    def seeds(self, mean: Tensor, square: Tensor, samples: int, begin: str = "corrected") -> dict[str, Tensor]:
        """Computes the initial state of grown entries whose gradients have been averaged.

        "text" stores the averages as moments of entries of age 0 (thesis §7.3.1). Then the next correction takes them
        for the moments of one gradient: it divides the new second moment by 0.001, not by 1, and a first step is 0.32
        times as long as the learning rate, if all gradients are alike. "code" does the same at age `samples`, as the
        reference code: 0.17 after five. "corrected" scales the averages so that they are what the correction gives at
        age `samples`: 1.0.

        Args:
            mean, square: (M,) averages of gradients and of their squares.
            samples: number of gradients in the averages.
            begin: "corrected", "text" or "code".
        Returns:
            slot -> (M,) values, for `exchange`.
        """
        age = torch.full_like(mean, 0 if begin == "text" else samples, dtype=torch.int32)
        if begin != "corrected":
            return {"age": age, "first": mean, "second": square}
        first_beta, second_beta = self.betas
        return {
            "age": age,
            "first": mean * (1 - first_beta**samples),
            "second": square * (1 - second_beta**samples),
        }

    def _slots_by_entry(self) -> tuple[str, ...]:
        return ("age", "first", "second")


class SparseSm3(EntryOptimiser):
    """SM3 (Anil et al., 2019), which has one row and one column of accumulators per matrix, see `sm3_step`.

    A vector of the task head counts as a matrix of one column, for which SM3 equals Adagrad.

    Args:
        pattern: returns the present entries of a delta.
        momentum: of the steps; with 0 there is no state per entry.
        epsilon: added under the square root, > 0.
        variant: "II", or "I", see `sm3_step`.
    """

    keeps_other_shapes = True

    def __init__(
        self,
        deltas: Mapping[str, nn.Parameter],
        head: Mapping[str, nn.Parameter],
        rate: float,
        decay: float,
        pattern: Callable[[nn.Parameter], SparsePattern],
        momentum: float,
        epsilon: float,
        variant: str = "II",
    ) -> None:
        super().__init__(deltas, head, rate, decay)
        self.momentum, self.epsilon, self.variant = momentum, epsilon, variant
        self._pattern = pattern
        self._full = {id(parameter): _every_entry(parameter) for parameter in head.values()}

    def update(self, parameter: nn.Parameter, gradient: Tensor, rate: float, decay: float) -> None:
        pattern = self._full.get(id(parameter)) or self._pattern(parameter)
        state = self.state[parameter]
        if not state:
            state["rows"], state["columns"] = parameter.new_zeros(pattern.rows), parameter.new_zeros(pattern.columns)
            if self.momentum:
                state["momentum"] = torch.zeros_like(parameter)
        flat, buffer = parameter.view(-1), state.get("momentum")
        sm3_step(
            flat,
            gradient.reshape(-1),
            pattern,
            state["rows"],
            state["columns"],
            rate,
            self.epsilon,
            decay,
            self.momentum,
            None if buffer is None else buffer.view(-1),
            self.variant,
        )

    def _slots_by_entry(self) -> tuple[str, ...]:
        return ("momentum",)


def _every_entry(parameter: Tensor) -> SparsePattern:
    rows = parameter.shape[0] if parameter.dim() else 1
    columns = max(parameter.numel() // max(rows, 1), 1)
    return SparsePattern.from_indices(torch.arange(parameter.numel(), device=parameter.device), rows, columns)
