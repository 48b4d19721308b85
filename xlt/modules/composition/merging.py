"""Operators that resolve conflicts between modules before they add them: TIES and DARE.

Both work on the entries of sparse deltas. Of low-rank deltas they take the factors A and B, each by itself, as peft's
`add_weighted_adapter` does; the ranks must be equal then. An adapter's parameters are no differences from anything, so
neither takes adapters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from xlt.modules.artefact import ModuleArtefact
from xlt.modules.composition.arithmetic import check_alike, header_of, union, weights_of, whole_tensors
from xlt.modules.low_rank import LowRankDelta
from xlt.modules.sparse_delta import Entries, SparseDelta


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

    return _merge(modules, given, trimmed, merged, "ties", {"density": density, "weights": given})


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

    return _merge(modules, given, dropped, added, "dare", {"drop": drop, "weights": given})


def _merge(
    modules: Sequence[ModuleArtefact],
    weights: Sequence[float],
    prune: Callable[[Tensor, tuple[object, ...]], Tensor],
    join: Callable[[Tensor, Tensor], Tensor],
    method: str,
    settings: dict[str, Any],
) -> ModuleArtefact:
    """Prunes the values of each tensor of each module, and joins those of all modules.

    Args:
        prune: values, and the place (number of the module, name of the tensor, role) -> values of the same shape, zero
            where one is left out.
        join: values (modules, ...) and weights (modules, 1, ...) -> (...).
    """
    header, whole = header_of(modules, method, settings), whole_tensors(modules, lambda number, _: weights[number])
    if all(isinstance(module, SparseDelta) for module in modules):
        return SparseDelta(header, _merge_sparse(modules, weights, prune, join), whole)  # type: ignore[arg-type]
    if all(isinstance(module, LowRankDelta) for module in modules):
        return LowRankDelta(header, _merge_low_rank(modules, weights, prune, join), 1.0, whole)  # type: ignore[arg-type]
    raise ValueError(f"{modules[0].header}: modules of kind {modules[0].kind} have no merge by {method}")


def _merge_sparse(
    modules: Sequence[SparseDelta], weights: Sequence[float], prune: Any, join: Callable[[Tensor, Tensor], Tensor]
) -> dict[str, Entries]:
    merged = {}
    for name in dict.fromkeys(name for module in modules for name in module.entries):
        parts = [(n, module.entries[name]) for n, module in enumerate(modules) if name in module.entries]
        shapes = {tuple(entries.shape) for _, entries in parts}
        if len(shapes) > 1:
            raise ValueError(f"tensor {name!r} has different shapes in the modules: {sorted(shapes)}")
        indices = union([entries.indices for _, entries in parts])
        count = parts[0][1].total if indices is None else indices.numel()
        values = torch.zeros(len(parts), count)
        for row, (number, entries) in zip(values, parts, strict=True):
            own = prune(entries.values.float(), (number, name, "values"))
            if entries.indices is None:
                row += own
            else:
                row[entries.indices.long() if indices is None else torch.searchsorted(indices, entries.indices)] = own
        total = join(values, torch.tensor([[weights[number]] for number, _ in parts]))
        if indices is not None:  # what was left out everywhere needs no entry
            there = (values != 0).any(0)
            indices, total = indices[there], total[there]
        merged[name] = Entries(indices, total, parts[0][1].shape)
    return merged


def _merge_low_rank(
    modules: Sequence[LowRankDelta], weights: Sequence[float], prune: Any, join: Callable[[Tensor, Tensor], Tensor]
) -> dict[str, tuple[Tensor, Tensor]]:
    if min(weight * module.scale for weight, module in zip(weights, modules, strict=True)) < 0:
        raise ValueError("the factors of low-rank deltas are merged each by itself, so weights must not be negative")
    roots = [math.sqrt(weight * module.scale) for weight, module in zip(weights, modules, strict=True)]
    merged: dict[str, tuple[Tensor, Tensor]] = {}
    for name in dict.fromkeys(name for module in modules for name in module.factors):
        pairs = [(n, module.factors[name]) for n, module in enumerate(modules) if name in module.factors]
        if len({(a.shape, b.shape) for _, (a, b) in pairs}) > 1:
            raise ValueError(f"weight {name!r} has factors of several shapes: the ranks of all modules must be equal")
        sides = []
        for side, role in enumerate("ab"):
            pruned = [prune(pair[side].float(), (number, name, role)) for number, pair in pairs]
            factors = torch.tensor([[[roots[number]]] for number, _ in pairs])
            sides.append(join(torch.stack(pruned), factors))
        merged[name] = (sides[0], sides[1])
    return merged
