"""What operators share that prune the values of modules before they join them, as TIES and DARE do.

They work on the entries of sparse deltas. Of low-rank deltas they take the factors A and B, each by itself, as peft's
`add_weighted_adapter` does; the ranks must be equal then. An adapter's parameters are no differences from anything, so
they take none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from xlt.modules.artefact import ModuleArtefact
from xlt.modules.composition.arithmetic import header_of, union, whole_tensors
from xlt.modules.low_rank import LowRankDelta
from xlt.modules.sparse_delta import Entries, SparseDelta


def merge(
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
