"""The difference of two modules."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from xlt.modules.artefact import ModuleArtefact
from xlt.modules.composition.arithmetic import combine
from xlt.modules.composition.expression import DELTAS, OperatorConfig


@dataclass
class MinusConfig(OperatorConfig):
    """Schema of the operator `minus`."""

    takes = DELTAS
    count = 2
    heads = 1

    operator: str = "minus"


SCHEMA = MinusConfig


def minus(module: ModuleArtefact, other: ModuleArtefact) -> ModuleArtefact:
    """Computes a module without another one: what the second learned is taken away (task arithmetic's forgetting).

    Tensors that the second was trained on in full do not count.

    Raises:
        ValueError: see `sum_deltas`; adapters have no difference.
    """
    deltas_only = copy.copy(other)
    deltas_only.tensors = {}  # type: ignore[attr-defined]
    difference = combine([module, deltas_only], lambda number, _: (1.0, -1.0)[number], "minus", {})
    own = module.header
    difference.header = dataclasses.replace(difference.header, language=own.language, task=own.task)
    return difference


def compute(modules: Sequence[ModuleArtefact]) -> ModuleArtefact:
    """Computes the difference of two modules; see `minus`."""
    module, other = modules
    return minus(module, other)
