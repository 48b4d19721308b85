"""The average of modules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xlt.modules.artefact import ModuleArtefact
from xlt.modules.composition.arithmetic import combine
from xlt.modules.composition.expression import LINEAR, OperatorConfig


@dataclass
class AverageConfig(OperatorConfig):
    """Schema of the operator `average`."""

    takes = LINEAR

    operator: str = "average"


SCHEMA = AverageConfig


def average(modules: Sequence[ModuleArtefact]) -> ModuleArtefact:
    """Computes the average of modules, for instance of several seeds.

    Raises:
        ValueError: see `sum_deltas`.
    """
    return combine(modules, lambda *_: 1 / len(modules), "average", {})


compute = average
