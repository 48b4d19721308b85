"""The sum of sparse deltas, the first operator of the composition of modules.

A sum makes one module file of several, for example of a language module and a task module. `ModuleStack` gives a model
the same sum without a new module, by applying one module after the other; tables do that.
"""

from collections.abc import Sequence

import torch

from xlt.modules.artefact import ModuleHeader, same_base
from xlt.modules.sparse_delta import Entries, SparseDelta


def sum_deltas(modules: Sequence[SparseDelta], weights: Sequence[float] | None = None) -> SparseDelta:
    """Computes the weighted sum of sparse deltas, in float32 and in the order given.

    Thesis §4.3.2: theta0 + phi_task + phi_language. The sum has an entry wherever one of the modules has one. Applying
    the sum rounds each weight once; applying the modules one after the other rounds once per module, so the weights
    can differ in the last bit where modules overlap.

    Args:
        modules: at least one, all of one base model.
        weights: for each module the factor of its deltas; None means 1 for all. Fully trained tensors are taken over
            unchanged.
    Returns:
        A module of method "sum" whose provenance lists the parts. Its language is the one that all parts with a
        language have, or None if they differ; likewise its task.
    Raises:
        ValueError: there is no module, the number of weights is another one, base models or shapes differ, or a
            fully trained tensor of one module is also in another.
    """
    if not modules:
        raise ValueError("there is no module to sum: give at least one")
    factors = [1.0] * len(modules) if weights is None else [float(weight) for weight in weights]
    if len(factors) != len(modules):
        raise ValueError(
            f"there are {len(modules)} modules but {len(factors)} weights: give one weight for each module"
        )
    _check_same_base(modules)
    tensors: dict[str, torch.Tensor] = {}
    parts: dict[str, list[tuple[float, Entries]]] = {}
    for module, factor in zip(modules, factors, strict=True):
        for name, tensor in module.tensors.items():
            if name in tensors:
                raise ValueError(f"tensor {name!r} is fully trained in two modules: a sum can have it from one only")
            tensors[name] = tensor
        for name, entries in module.entries.items():
            parts.setdefault(name, []).append((factor, entries))
    clashes = sorted(parts.keys() & tensors.keys())
    if clashes:
        raise ValueError(
            f"tensor {clashes[0]!r} is fully trained in one module and a sparse delta in another: these have no sum"
        )
    return SparseDelta(_header(modules, factors), {name: _sum(name, part) for name, part in parts.items()}, tensors)


def _sum(name: str, parts: Sequence[tuple[float, Entries]]) -> Entries:
    shapes = {tuple(entries.shape) for _, entries in parts}
    if len(shapes) > 1:
        raise ValueError(f"tensor {name!r} has different shapes in the modules: {', '.join(map(str, sorted(shapes)))}")
    indices = _union([entries.indices for _, entries in parts])
    first = parts[0][1]
    total = torch.zeros(first.total if indices is None else indices.numel(), device=first.values.device)
    for factor, entries in parts:
        values = entries.values.float() * factor
        if entries.indices is None:
            total += values
        else:
            places = entries.indices.long() if indices is None else torch.searchsorted(indices, entries.indices)
            total[places] += values  # indices do not repeat within one module
    return Entries(indices, total, first.shape)


def _union(indices: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    """Returns the sorted union of indices. None stands for every entry, so with one None the union is None."""
    known = [part for part in indices if part is not None]
    if len(known) < len(indices):
        return None
    return known[0] if len(known) == 1 else torch.unique(torch.cat(known))


def _check_same_base(modules: Sequence[SparseDelta]) -> None:
    first = modules[0].header
    for module in modules[1:]:
        if not same_base(module.header.base_hash, first.base_hash):
            raise ValueError(
                f"{first} belongs to base model {first.base_model!r} ({first.base_hash}), {module.header} to "
                f"{module.header.base_model!r} ({module.header.base_hash}): only modules of one base model have a sum"
            )


def _header(modules: Sequence[SparseDelta], factors: Sequence[float]) -> ModuleHeader:
    headers = [module.header for module in modules]
    return ModuleHeader(
        kind=SparseDelta.kind,
        method="sum",
        base_model=headers[0].base_model,
        base_hash=headers[0].base_hash,
        language=_common_name([header.language for header in headers]),
        task=_common_name([header.task for header in headers]),
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


def _common_name(names: Sequence[str | None]) -> str | None:
    known = {name for name in names if name is not None}
    return known.pop() if len(known) == 1 else None
