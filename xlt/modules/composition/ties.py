"""TIES: prunes modules, elects a sign for each entry, and averages what agrees with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from xlt.config.schema import optional
from xlt.modules.artefact import ModuleArtefact
from xlt.modules.composition.arithmetic import check_alike, weight_faults, weights_of
from xlt.modules.composition.expression import DELTAS, OperatorConfig
from xlt.modules.composition.merging import merge


@dataclass
class TiesConfig(OperatorConfig):
    """Schema of the operator `ties`."""

    takes = DELTAS

    operator: str = "ties"
    density: float = optional("share of the entries of a module's tensor that is kept", 1.0, above=0, high=1)
    weights: list[float] | None = optional("one for each module; null: 1 for all", None)

    def faults(self, prefix: str) -> Iterator[str]:
        yield from super().faults(prefix)
        yield from weight_faults(self.weights, self.of, prefix)


SCHEMA = TiesConfig


def ties(
    modules: Sequence[ModuleArtefact], density: float = 1.0, weights: Sequence[float] | None = None
) -> ModuleArtefact:
    """Merges modules by TIES (Yadav et al., 2023): trim, elect a sign for each entry, and average those that agree.

    Of each tensor of a module the entries of greatest magnitude are kept. The sign of an entry is that of the sum over
    the modules (+ if that is 0). The value is the sum of the weighted values of that sign, divided by their number.

    Args:
        modules: at least one, all of one kind and base model.
        density: share of a tensor's own entries that is kept, above 0 and at most 1. Sparse deltas have few entries,
            of which this is a share.
        weights: one for each module; None means 1 for all.
    Raises:
        ValueError: they do not fit together, or are of a kind that has no such merge.
    """
    if not 0 < density <= 1:
        raise ValueError(f"density={density}: must be above 0 and at most 1")
    check_alike(modules)
    given = weights_of(modules, weights)

    def merged(values: Tensor, factors: Tensor) -> Tensor:
        positive = values.sum(0) >= 0
        agrees = torch.where(positive, values > 0, values < 0)
        count = agrees.sum(0).clamp(min=1)
        return (values * factors).where(agrees, 0).sum(0) / count

    def trimmed(values: Tensor, _: tuple[object, ...]) -> Tensor:
        count = min(max(1, int(density * values.numel())), values.numel())
        kept = values.abs().reshape(-1).topk(count).indices
        result = torch.zeros_like(values).reshape(-1)
        result[kept] = values.reshape(-1)[kept]
        return result.view(values.shape)

    return merge(modules, given, trimmed, merged, "ties", {"density": density, "weights": given})


compute = ties
