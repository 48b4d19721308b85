"""DARE: drops entries of modules at random, rescales those that stay, and adds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from xlt.config.schema import key, optional
from xlt.modules.artefact import ModuleArtefact
from xlt.modules.composition.arithmetic import check_alike, weight_faults, weights_of
from xlt.modules.composition.expression import DELTAS, OperatorConfig
from xlt.modules.composition.merging import merge


@dataclass
class DareConfig(OperatorConfig):
    """Schema of the operator `dare`."""

    takes = DELTAS

    operator: str = "dare"
    drop: float = key("probability that an entry is dropped; at least 0, below 1", low=0)
    seed: int = optional("seed of the draws", 0, low=0)
    weights: list[float] | None = optional("one for each module; null: 1 for all", None)

    def faults(self, prefix: str) -> Iterator[str]:
        yield from super().faults(prefix)
        yield from weight_faults(self.weights, self.of, prefix)


SCHEMA = DareConfig


def dare(
    modules: Sequence[ModuleArtefact],
    drop: float,
    random: Callable[..., torch.Generator],
    weights: Sequence[float] | None = None,
) -> ModuleArtefact:
    """Merges modules by DARE (Yu et al., 2024): drop entries at random, rescale those that stay, and add.

    Each entry is dropped with the same probability by itself; those that stay are divided by the probability to stay,
    so that the expectation is the sum.

    Args:
        modules: at least one, all of one kind and base model.
        drop: probability, at least 0 and below 1.
        random: returns the generator of a named stream; the draws depend on it, on the number of the module and on the
            name of the tensor alone.
        weights: one for each module; None means 1 for all.
    Raises:
        ValueError: they do not fit together, or are of a kind that has no such merge.
    """
    if not 0 <= drop < 1:
        raise ValueError(f"drop={drop}: must be at least 0 and below 1")
    check_alike(modules)
    given = weights_of(modules, weights)

    def dropped(values: Tensor, place: tuple[object, ...]) -> Tensor:
        stays = torch.rand(values.shape, generator=random("dare", *place)) >= drop
        return values.where(stays, 0) / (1 - drop)

    def added(values: Tensor, factors: Tensor) -> Tensor:
        return (values * factors).sum(0)

    return merge(modules, given, dropped, added, "dare", {"drop": drop, "weights": given})


compute = dare
