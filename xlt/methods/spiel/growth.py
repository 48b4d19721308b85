"""The criteria by which SpIEL grows frozen entries: SpIEL-AG's mean gradients and SpIEL-MA's estimated momentum."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from xlt_kernels.outer_topk import outer_topk
from xlt_kernels.select import select_largest

from xlt.errors import UsageError
from xlt.methods.sparse import SparseDeltas
from xlt.methods.spiel.optimisers import AgedAdam, EntryOptimiser, SparseSm3

Draw = Callable[[str], torch.Generator]
"""A function that returns a tensor's stream of random numbers for the present update."""


class Growth(ABC):
    """A criterion for growth. The method calls those hooks of it that have the names of the method's own hooks.

    Args:
        deltas: the model's trainable deltas.
    """

    def __init__(self, deltas: SparseDeltas) -> None:
        self.deltas = deltas

    @abstractmethod
    def optimiser(self, head: Mapping[str, nn.Parameter], rate: float, decay: float) -> EntryOptimiser:
        """Returns the optimiser on whose state this criterion relies."""

    def prepare(self, until_update: int | None, draw: Draw) -> None:  # noqa: B027
        """Is called before a step; `until_update` steps follow it before the next update, None if there is none."""

    def after_backward(self) -> None:  # noqa: B027
        pass

    def partial_sums(self) -> Iterable[Tensor]:
        return ()

    def before_step(self) -> None:  # noqa: B027
        pass

    def after_step(self, clipping: float) -> None:  # noqa: B027
        pass

    @abstractmethod
    def grow(self, name: str, count: int, draw: Draw) -> tuple[Tensor, dict[str, Tensor]]:
        """Chooses the entries of a tensor to grow.

        Returns:
            (n,) flat indices, n <= count, none of them active before the update; and slot -> (n,) initial values of
            the optimiser's state of these entries.
        """

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:  # noqa: B027
        pass


class GradientGrowth(Growth):
    """SpIEL-AG's criterion: the largest mean gradient over the last gamma steps before the update.

    Thesis §7.3.1, Eq. 7.5. Means are stored for K_i candidates only. These are the frozen entries with the largest
    gradient in the first of the gamma steps: in the whole step, or in its first micro-batch. The means are over whole
    steps in both cases.

    A step that comes in one part has the whole gradient of one tuned tensor in memory at a time, and so has the first
    micro-batch. To sum the gradients of several parts, that of every tuned tensor is kept during this one step: 4 bytes
    for each weight.

    Args:
        deltas: the model's trainable deltas.
        estimation_steps: gamma, the number of steps.
        candidates: K_i as a multiple of a tensor's tuned entries, at least 1.
        parts: how a tensor's gradient of a step comes: "one", by one call of the backward pass; "sum", by several,
            which are added up before candidates are chosen; "first", by several, and candidates are chosen by the first
            micro-batch; "first sum", the same for a tensor that a forward pass uses several times.
        moments: how moments of grown entries begin, see `AgedAdam.seeds`.
        betas, epsilon: of Adam.
        steps: number of steps of the phase.
    """

    def __init__(
        self,
        deltas: SparseDeltas,
        estimation_steps: int,
        candidates: float,
        parts: str,
        moments: str,
        betas: tuple[float, float],
        epsilon: float,
        steps: int,
    ) -> None:
        super().__init__(deltas)
        self.estimation_steps, self.candidates, self.parts = estimation_steps, candidates, parts
        self.moments = moments
        self.betas, self.epsilon, self.steps = betas, epsilon, steps
        self._whole: dict[str, Tensor] = {}
        self._candidates: dict[str, Tensor] = {}  # until they are watched
        self._sample: dict[str, Tensor] = {}
        self._mean: dict[str, Tensor] = {}
        self._square: dict[str, Tensor] = {}
        self._choosing = self._estimating = False

    def optimiser(self, head: Mapping[str, nn.Parameter], rate: float, decay: float) -> EntryOptimiser:
        most = self.steps + self.estimation_steps
        self._adam = AgedAdam(self.deltas.deltas, head, rate, decay, self.betas, self.epsilon, most)
        return self._adam

    def prepare(self, until_update: int | None, draw: Draw) -> None:
        self._estimating = until_update is not None and until_update < self.estimation_steps
        self._choosing = until_update == self.estimation_steps - 1
        self._draw = draw
        self._sample = {}
        if self._choosing:
            self._candidates, self._mean, self._square, self._whole = {}, {}, {}, {}
            for name in self.deltas.deltas:
                self.deltas.receive(name, partial(self._add if "sum" in self.parts else self._choose_from, name))
        elif self._estimating:
            for gradient in self.deltas.watched().values():
                gradient.zero_()
            self._watch()
        else:
            self._candidates, self._mean, self._square = {}, {}, {}
            self.deltas.stop_watching()

    def after_backward(self) -> None:
        """Chooses the candidates after the first micro-batch, and watches them in the others of the step."""
        if not (self._choosing and self.parts.startswith("first")):
            return
        self._choose_from_sums()
        self.deltas.stop_watching()
        self._watch()
        self._choosing = False

    def partial_sums(self) -> Iterable[Tensor]:
        if not (self._choosing and self.parts == "sum"):  # the order must be the same in all processes
            watched = self.deltas.watched()
            return [watched[name] for name in self.deltas.patterns if name in watched]
        for name, pattern in self.deltas.patterns.items():  # a process without examples has computed no gradient
            if name not in self._whole:
                self._whole[name] = self.deltas.deltas[name].new_zeros(pattern.rows, pattern.columns)
        return [self._whole[name] for name in self.deltas.patterns]

    def before_step(self) -> None:
        if self._choosing:
            self._choose_from_sums()
        elif self._estimating:
            self._sample = self.deltas.watched()

    @torch.no_grad()
    def after_step(self, clipping: float) -> None:
        for name, sample in self._sample.items():
            sample = sample * clipping
            if name not in self._mean:
                self._mean[name], self._square[name] = torch.zeros_like(sample), torch.zeros_like(sample)
            self._mean[name] += sample / self.estimation_steps
            self._square[name] += sample.square() / self.estimation_steps

    @torch.no_grad()
    def grow(self, name: str, count: int, draw: Draw) -> tuple[Tensor, dict[str, Tensor]]:
        if name not in self._mean:  # the layer was not used in the step that chose candidates
            empty = self.deltas.deltas[name].new_empty(0)
            return empty.long(), self._seeds(empty, empty)
        none = torch.arange(0, device=self._mean[name].device)
        chosen = select_largest(self._mean[name].clone(), min(count, len(self._mean[name])), none, draw(name))
        return self._candidates_of(name)[chosen], self._seeds(self._mean[name][chosen], self._square[name][chosen])

    def state(self) -> dict[str, Tensor]:
        candidates = {name: self._candidates_of(name) for name in self._candidates or self.deltas.watched()}
        parts = {"candidates": candidates, "mean": self._mean, "square": self._square}
        return {f"{part}/{name}": tensor for part, named in parts.items() for name, tensor in named.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        parts = {"candidates": self._candidates, "mean": self._mean, "square": self._square}
        for part, named in parts.items():
            named.clear()
            named.update(
                (name.removeprefix(f"{part}/"), tensor.to(self.deltas.deltas[name.removeprefix(f"{part}/")].device))
                for name, tensor in state.items()
                if name.startswith(f"{part}/")
            )

    def _seeds(self, mean: Tensor, square: Tensor) -> dict[str, Tensor]:
        return self._adam.seeds(mean, square, self.estimation_steps, self.moments)

    def _watch(self) -> None:
        """Hands the candidates, and their sample of this step, over to the deltas, one tensor after the other."""
        for name in [*self._candidates]:
            self.deltas.watch(name, self._candidates.pop(name))
            if name in self._sample:
                self.deltas.watched()[name].add_(self._sample.pop(name))

    def _candidates_of(self, name: str) -> Tensor:
        return self._candidates[name] if name in self._candidates else self.deltas.watched_indices(name)

    def _add(self, name: str, gradient: Tensor) -> None:
        if name in self._whole:
            self._whole[name] += gradient
        else:
            self._whole[name] = gradient.to(self.deltas.deltas[name].dtype, copy=True)

    def _choose_from_sums(self) -> None:
        for name in self.deltas.patterns:  # the order must be the same in all processes
            if name in self._whole:
                self._choose_from(name, self._whole.pop(name))

    def _choose_from(self, name: str, gradient: Tensor) -> None:
        """Chooses the candidates by a tensor's whole gradient, which is also (part of) the first sample of theirs."""
        if name in self._candidates:
            raise UsageError(
                f"method=spiel_ag: the weight {name} is used twice in a forward pass, which needs summed gradients: "
                "set train.micro_batch_size (the value of train.batch_size is enough)"
            )
        active = self.deltas.indices[name]
        count = min(round(self.candidates * len(active)), gradient.numel() - len(active))
        chosen = select_largest(gradient, count, active, self._draw(name))
        self._candidates[name] = chosen.to(active.dtype)  # usually int32
        self._sample[name] = gradient.view(-1)[chosen].to(self.deltas.deltas[name].dtype)


class MomentumGrowth(Growth):
    """SpIEL-MA's criterion: the largest r_i c_j, which orders entries as SM3's estimate of their momentum does.

    Thesis §7.3.2, Eq. 7.7.

    Args:
        deltas: the model's trainable deltas.
        momentum, epsilon, variant: of SM3.
    """

    def __init__(self, deltas: SparseDeltas, momentum: float, epsilon: float, variant: str) -> None:
        super().__init__(deltas)
        self.momentum, self.epsilon, self.variant = momentum, epsilon, variant
        self._name = {id(delta): name for name, delta in deltas.deltas.items()}

    def optimiser(self, head: Mapping[str, nn.Parameter], rate: float, decay: float) -> EntryOptimiser:
        self._sm3 = SparseSm3(
            self.deltas.deltas,
            head,
            rate,
            decay,
            lambda delta: self.deltas.patterns[self._name[id(delta)]],
            self.momentum,
            self.epsilon,
            self.variant,
        )
        return self._sm3

    def grow(self, name: str, count: int, draw: Draw) -> tuple[Tensor, dict[str, Tensor]]:
        state, active = self._sm3.state[self.deltas.deltas[name]], self.deltas.indices[name]
        if not state:  # its layer has not been used, so there is no gradient yet
            return active[:0].long(), {}
        count = min(count, len(state["rows"]) * len(state["columns"]) - len(active))
        return outer_topk(state["rows"], state["columns"], count, active, draw(name))[0], {}
