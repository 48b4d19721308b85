"""Several sparse deltas as one."""

from collections.abc import Sequence

import torch

from xlt.modules.artefact import ModuleHeader
from xlt.modules.sparse_delta import Entries, SparseDelta


def compose(modules: Sequence[SparseDelta], weights: Sequence[float] | None = None) -> SparseDelta:
    """The (weighted) sum of sparse deltas: the union of their indices, summed in float32 in the order given.

    Thesis §4.3.2: theta0 + phi_task + phi_language. Applying the sum rounds once, applying the modules one after the
    other rounds once each, so where they overlap the two can differ in the last bit.

    Args:
        modules: of one base model.
        weights: one factor for each module's deltas; None means 1. Fully trained tensors are carried as they are.
    Returns:
        A module of method "compose" whose provenance lists the parts. Its language and task are those the parts
        agree on, leaving aside parts that have none.
    Raises:
        ValueError: no modules, another number of weights, different base models or shapes, or a tensor that is
            fully trained in one module and also in another.
    """
    if not modules:
        raise ValueError("compose needs at least one module")
    factors = [1.0] * len(modules) if weights is None else [float(weight) for weight in weights]
    if len(factors) != len(modules):
        raise ValueError(f"{len(modules)} modules but {len(factors)} weights")
    _check_same_base(modules)
    tensors: dict[str, torch.Tensor] = {}
    parts: dict[str, list[tuple[float, Entries]]] = {}
    for module, factor in zip(modules, factors, strict=True):
        for name, tensor in module.tensors.items():
            if name in tensors:
                raise ValueError(f"{name!r} is fully trained in two modules; only one of them can be kept")
            tensors[name] = tensor
        for name, entries in module.entries.items():
            parts.setdefault(name, []).append((factor, entries))
    clashes = sorted(parts.keys() & tensors.keys())
    if clashes:
        raise ValueError(f"{clashes[0]!r} is fully trained in one module and a sparse delta in another")
    return SparseDelta(_header(modules, factors), {name: _sum(name, part) for name, part in parts.items()}, tensors)


def _sum(name: str, parts: Sequence[tuple[float, Entries]]) -> Entries:
    shapes = {tuple(entries.shape) for _, entries in parts}
    if len(shapes) > 1:
        raise ValueError(f"{name!r} has different shapes in the modules: {', '.join(map(str, sorted(shapes)))}")
    indices = _union([entries.indices for _, entries in parts])
    first = parts[0][1]
    total = torch.zeros(first.total if indices is None else indices.numel(), device=first.values.device)
    for factor, entries in parts:
        values = entries.values.float() * factor
        if entries.indices is None:
            total += values
        else:
            at = entries.indices.long() if indices is None else torch.searchsorted(indices, entries.indices)
            total[at] += values  # indices do not repeat within one module
    return Entries(indices, total, first.shape)


def _union(indices: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    """Sorted union; None, meaning every entry, swallows all."""
    known = [part for part in indices if part is not None]
    if len(known) < len(indices):
        return None
    return known[0] if len(known) == 1 else torch.unique(torch.cat(known))


def _check_same_base(modules: Sequence[SparseDelta]) -> None:
    first = modules[0].header
    for module in modules[1:]:
        if module.header.base_hash != first.base_hash:
            raise ValueError(
                f"{first} belongs to base model {first.base_model!r} ({first.base_hash}), {module.header} to "
                f"{module.header.base_model!r} ({module.header.base_hash}); only modules of one base model compose"
            )


def _header(modules: Sequence[SparseDelta], factors: Sequence[float]) -> ModuleHeader:
    headers = [module.header for module in modules]
    return ModuleHeader(
        kind=SparseDelta.kind,
        method="compose",
        base_model=headers[0].base_model,
        base_hash=headers[0].base_hash,
        language=_agreed([header.language for header in headers]),
        task=_agreed([header.task for header in headers]),
        untied=any(header.untied for header in headers),
        provenance={
            "parts": [
                {
                    "method": header.method,
                    "language": header.language,
                    "task": header.task,
                    "fingerprint": header.fingerprint,
                    "weight": factor,
                }
                for header, factor in zip(headers, factors, strict=True)
            ]
        },
    )


def _agreed(names: Sequence[str | None]) -> str | None:
    known = {name for name in names if name is not None}
    return known.pop() if len(known) == 1 else None
