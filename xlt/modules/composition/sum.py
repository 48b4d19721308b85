"""The sum of modules, each times a weight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xlt.config.schema import optional
from xlt.modules.adapter import Adapter
from xlt.modules.artefact import ModuleArtefact
from xlt.modules.composition.arithmetic import combine, factors_fault, weight_faults, weights_of
from xlt.modules.composition.expression import LINEAR, OperatorConfig


@dataclass
class SumConfig(OperatorConfig):
    """Schema of the operator `sum`."""

    takes = LINEAR

    operator: str = "sum"
    weights: list[float] | None = optional("one for each module; null: 1 for all", None)

    @staticmethod
    def kind_fault(settings: Mapping[str, Any], count: int, kind: type[ModuleArtefact]) -> str | None:
        return factors_fault(settings.get("weights") or [1.0] * count) if issubclass(kind, Adapter) else None

    def faults(self, prefix: str) -> Iterator[str]:
        yield from super().faults(prefix)
        yield from weight_faults(self.weights, self.of, prefix)


SCHEMA = SumConfig


def sum_deltas(modules: Sequence[ModuleArtefact], weights: Sequence[float] | None = None) -> ModuleArtefact:
    """Computes the sum of modules in the order given, each times a weight (thesis §4.3.2: phi_task + phi_language).

    `ModuleStack` gives a model the same sum without a new module, by applying one module after the other; tables do
    that. Applying the sum rounds each weight once; applying the modules one after the other rounds once per module, so
    the weights can differ in the last bit where modules overlap.

    Args:
        modules: at least one, all of one kind and base model.
        weights: one for each module; None means 1 for all. Fully trained tensors are taken over unchanged.
    Raises:
        ValueError: numbers, kinds, base models or shapes do not fit together, or two modules have a head.
    """
    given = weights_of(modules, weights)
    return combine(modules, lambda number, _: given[number], "sum", {"weights": given})


compute = sum_deltas
