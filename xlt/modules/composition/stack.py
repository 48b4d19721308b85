"""Modules one after the other, as a model with several modules has them."""

from __future__ import annotations

from dataclasses import dataclass

from xlt.modules.composition.expression import OperatorConfig


@dataclass
class StackConfig(OperatorConfig):
    """Schema of the operator `stack`: the modules are applied in the order of `of`.

    Deltas add up (thesis §4.3.2), a rounding for each module; the adapters of a language run before those of a task
    (MAD-X, §2.3.4). The value is no single module, so a stack is no part of another operation.
    """

    operator: str = "stack"


SCHEMA = StackConfig
