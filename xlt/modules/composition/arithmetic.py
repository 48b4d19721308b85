"""Linear combinations of modules, on which sums, differences, averages and swapped layers are built.

The value is a module of the same kind. What is linear depends on the kind:

- Sparse deltas: the deltas. The value has an entry wherever a module with a factor that is not zero has one.
- Low-rank deltas: the products B A. The value's rank is the sum of the ranks, and nothing is approximated.
- Adapters are not linear; their parameters are averaged (as AdapterSoup does, Chronopoulou et al., 2023), so the
  factors of a network must add up to 1.

Tensors that were trained in full, such as heads, are taken from the one module that has them. If several have one, it
is averaged only if the modules were trained from one start (`start.run`): two heads that were drawn independently have
nothing in common that an average would keep.
"""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from xlt.modules.adapter import Adapter, BottleneckAdapter, InvertibleAdapter
from xlt.modules.artefact import ModuleArtefact, ModuleHeader, same_base
from xlt.modules.low_rank import LowRankDelta
from xlt.modules.sparse_delta import Entries, SparseDelta

Factor: TypeAlias = Callable[[int, str], float]
"""A function of the number of a module and the name of a tensor, or the path of an adapter, that returns its factor."""

BLOCK = re.compile(r"\.(\d+)(?:\.|$)")
"""The number of a block in the name of a tensor or in the path of an adapter."""
_SUM_OF_FACTORS = 1e-6  # from 1, at most


def weights_of(modules: Sequence[ModuleArtefact], weights: Sequence[float] | None) -> list[float]:
    """Returns a weight for each module, 1 if none are given.

    Raises:
        ValueError: the numbers of modules and weights differ.
    """
    given = [1.0] * len(modules) if weights is None else [float(weight) for weight in weights]
    if len(given) != len(modules):
        raise ValueError(f"there are {len(modules)} modules but {len(given)} weights: give one weight for each module")
    return given


def weight_faults(weights: Sequence[float] | None, of: Sequence[object], prefix: str) -> Iterator[str]:
    """Yields a line if there is not one weight for each module, or none is other than 0."""
    if weights is None:
        return
    if len(weights) != len(of):
        yield f"{prefix}.weights={list(weights)}: {len(weights)} weights for {len(of)} modules; give one for each"
    elif not any(weights):
        yield f"{prefix}.weights={list(weights)}: nothing would be left; give one that is not 0"


def block_of(name: str) -> int | None:
    """Returns the number of the block that a tensor or adapter is in, from its name; None if it is in no block."""
    match = BLOCK.search(name)
    return None if match is None else int(match[1])


def combine(
    modules: Sequence[ModuleArtefact], factor: Factor, method: str, settings: Mapping[str, Any]
) -> ModuleArtefact:
    """Computes the sum of modules with a factor for each module and tensor, in float32 or wider.

    Args:
        modules: at least one, all of one kind and base model.
        factor: 0 leaves a tensor of a module out.
        method: of the header; its provenance has the modules.
        settings: for the provenance.
    Raises:
        ValueError: they do not fit together.
    """
    check_alike(modules)
    header, whole = header_of(modules, method, settings), whole_tensors(modules, factor)
    if all(isinstance(module, SparseDelta) for module in modules):
        return SparseDelta(header, _sparse(modules, factor), whole)  # type: ignore[arg-type]
    if all(isinstance(module, LowRankDelta) for module in modules):
        factors, scale = _low_rank(modules, factor)  # type: ignore[arg-type]
        return LowRankDelta(header, factors, scale, whole)
    if all(isinstance(module, Adapter) for module in modules):
        return _adapters(header, modules, factor, whole)  # type: ignore[arg-type]
    raise ValueError(f"{modules[0].header}: modules of kind {modules[0].kind} cannot be combined")


def check_alike(modules: Sequence[ModuleArtefact]) -> None:
    """Refuses modules that cannot be combined.

    Raises:
        ValueError: there is none, or they are of several kinds or base models.
    """
    if not modules:
        raise ValueError("there is no module to combine: give at least one")
    first = modules[0].header
    for module in modules[1:]:
        if module.kind != modules[0].kind:
            raise ValueError(
                f"{first} and {module.header} are of different kinds: only modules of one kind are combined"
            )
        if not same_base(module.header.base_hash, first.base_hash):
            raise ValueError(
                f"{first} belongs to base model {first.base_model!r} ({first.base_hash}), {module.header} to "
                f"{module.header.base_model!r} ({module.header.base_hash}): only modules of one base model are combined"
            )


def header_of(modules: Sequence[ModuleArtefact], method: str, settings: Mapping[str, Any]) -> ModuleHeader:
    """Returns the header of a combined module.

    Its task is the one that all modules with a task have; it is then a task module, whatever languages are in it.
    Without a task, its language is the one that all modules with a language have. Its provenance is that of the first
    module with the task, so that it can be used as that one; `parts` lists all.
    """
    headers = [module.header for module in modules]
    language, task = (_common([getattr(header, name) for header in headers]) for name in ("language", "task"))
    if any(header.task is not None for header in headers):
        language = None
    main = next((header for header in headers if header.task == task), headers[0])
    parts = [
        {"method": one.method, "language": one.language, "task": one.task, "fingerprint": one.fingerprint}
        for one in headers
    ]
    return ModuleHeader(
        kind=modules[0].kind,
        method=method,
        base_model=headers[0].base_model,
        base_hash=headers[0].base_hash,
        language=language,
        task=task,
        untied=any(header.untied for header in headers),
        provenance={**main.provenance, "parts": parts, **({"settings": dict(settings)} if settings else {})},
    )


def _common(names: Sequence[str | None]) -> str | None:
    known = {name for name in names if name is not None}
    return known.pop() if len(known) == 1 else None


def names_of(module: ModuleArtefact) -> list[str]:
    """Returns the names of the tensors that a module changes, or the paths of its adapters."""
    for attribute in ("entries", "factors", "adapters"):
        if hasattr(module, attribute):
            return list(getattr(module, attribute))
    return []


def whole_tensors(modules: Sequence[ModuleArtefact], factor: Factor) -> dict[str, Tensor]:
    """Returns the fully trained tensors of the value."""
    found: dict[str, list[tuple[int, Tensor]]] = {}
    for number, module in enumerate(modules):
        for name, tensor in getattr(module, "tensors", {}).items():
            found.setdefault(name, []).append((number, tensor))
    whole = {}
    for name, parts in found.items():
        if len(parts) == 1 or all(torch.equal(tensor, parts[0][1]) for _, tensor in parts[1:]):
            whole[name] = parts[0][1].clone()
            continue
        starts = {str(_start(modules[number])) for number, _ in parts}
        if len(starts) > 1 or "None" in starts:
            raise ValueError(
                f"tensor {name!r} was trained in full in {len(parts)} modules, which did not start from one module: "
                "unrelated heads cannot be merged. Begin all runs with one head (start=head_first)"
            )
        shapes = {tuple(tensor.shape) for _, tensor in parts}
        factors = [factor(number, name) for number, _ in parts]
        if len(shapes) > 1 or factors_fault(factors) is not None:
            about = f"shapes are {', '.join(map(str, sorted(shapes)))}, factors {', '.join(map(str, factors))}"
            raise ValueError(
                f"tensor {name!r} of {len(parts)} modules can only be averaged, with equal shapes and factors that add "
                f"up to 1; {about}"
            )
        whole[name] = _mean([tensor for _, tensor in parts], factors)
    return whole


def _start(module: ModuleArtefact) -> Any:
    depends = module.header.provenance.get("depends_on")
    return depends.get("start") if isinstance(depends, Mapping) else None


def factors_fault(factors: Sequence[float]) -> str | None:
    """Returns why parameters of networks cannot be combined with these factors; None if it is an average."""
    if abs(sum(factors) - 1) <= _SUM_OF_FACTORS:
        return None
    return (
        f"add up to {sum(factors):g}: adapters are not linear, so only averages of them mean something, whose factors "
        "add up to 1"
    )


def _mean(tensors: Sequence[Tensor], factors: Sequence[float]) -> Tensor:
    wide = torch.promote_types(tensors[0].dtype, torch.float32)
    total = torch.zeros(tensors[0].shape, dtype=wide)
    for tensor, factor in zip(tensors, factors, strict=True):
        total += tensor.to(wide) * factor
    return total.to(tensors[0].dtype)


def _sparse(modules: Sequence[SparseDelta], factor: Factor) -> dict[str, Entries]:
    parts: dict[str, list[tuple[float, Entries]]] = {}
    for number, module in enumerate(modules):
        for name, entries in module.entries.items():
            if (own := factor(number, name)) != 0:
                parts.setdefault(name, []).append((own, entries))
    return {name: sum_of_entries(name, of_name) for name, of_name in parts.items()}


def sum_of_entries(name: str, parts: Sequence[tuple[float, Entries]]) -> Entries:
    """Computes the sum of sparse deltas of one tensor, each times a factor, in their order and in float32 or wider.

    Raises:
        ValueError: the tensor has several shapes.
    """
    shapes = {tuple(entries.shape) for _, entries in parts}
    if len(shapes) > 1:
        raise ValueError(f"tensor {name!r} has different shapes in the modules: {', '.join(map(str, sorted(shapes)))}")
    indices = union([entries.indices for _, entries in parts])
    first, dtype = parts[0][1], torch.float32
    for _, entries in parts:
        dtype = torch.promote_types(dtype, entries.values.dtype)
    count = first.total if indices is None else indices.numel()
    total = torch.zeros(count, dtype=dtype, device=first.values.device)
    for own, entries in parts:
        values = entries.values.to(dtype) * own
        if entries.indices is None:
            total += values
        else:
            places = entries.indices.long() if indices is None else torch.searchsorted(indices, entries.indices)
            total[places] += values  # indices do not repeat within one module
    return Entries(indices, total, first.shape)


def union(indices: Sequence[Tensor | None]) -> Tensor | None:
    """Returns the sorted union of indices. None stands for every entry, so with one None the union is None."""
    known = [part for part in indices if part is not None]
    if len(known) < len(indices):
        return None
    return known[0] if len(known) == 1 else torch.unique(torch.cat(known))


def _low_rank(modules: Sequence[LowRankDelta], factor: Factor) -> tuple[dict[str, tuple[Tensor, Tensor]], float]:
    """Returns name -> joined factors, and their scale: that of all parts if they have one, else 1."""
    parts: dict[str, list[tuple[float, Tensor, Tensor]]] = {}
    for number, module in enumerate(modules):
        for name, (a, b) in module.factors.items():
            if (own := factor(number, name)) != 0:
                parts.setdefault(name, []).append((own * module.scale, a, b))
    scales = {scale for of_name in parts.values() for scale, _, _ in of_name}
    joined = {}
    for name, of_name in parts.items():
        if len({(a.shape[1], b.shape[0]) for _, a, b in of_name}) > 1:
            raise ValueError(f"weight {name!r} has different shapes in the modules")
        wide = functools.reduce(torch.promote_types, (b.dtype for _, _, b in of_name), torch.float32)
        scaled = [b if len(scales) == 1 else b.to(wide) * scale for scale, _, b in of_name]
        joined[name] = (torch.cat([a.to(wide) for _, a, _ in of_name]), torch.cat([b.to(wide) for b in scaled], 1))
    return joined, scales.pop() if len(scales) == 1 else 1.0


def _adapters(header: ModuleHeader, modules: Sequence[Adapter], factor: Factor, whole: dict[str, Tensor]) -> Adapter:
    sites: dict[str, list[tuple[float, Adapter]]] = {}
    for number, module in enumerate(modules):
        for path in module.adapters:
            if (own := factor(number, path)) != 0:
                sites.setdefault(path, []).append((own, module))
    adapters, placements = {}, {}
    for path, parts in sites.items():
        places = {module.placements[path] for _, module in parts}
        if len(places) > 1:
            raise ValueError(f"the adapters at {path} have several placements: {', '.join(sorted(places))}")
        adapters[path] = _mean_network(path, [(own, module.adapters[path]) for own, module in parts])
        placements[path] = places.pop()
    with_inverse = [(factor(number, "invertible"), m) for number, m in enumerate(modules) if m.invertible is not None]
    with_inverse = [(own, module) for own, module in with_inverse if own != 0]
    invertible, ends = None, None
    if with_inverse:
        if len({module.ends for _, module in with_inverse}) > 1:
            raise ValueError("the modules have invertible adapters at different places")
        invertible = _mean_network("the embeddings", [(own, module.invertible) for own, module in with_inverse])
        ends = with_inverse[0][1].ends
    return Adapter(header, adapters, placements, invertible, ends, whole)


def _mean_network(place: str, parts: Sequence[tuple[float, Any]]) -> Any:
    """Returns a network whose parameters are the weighted mean of those of networks of one shape."""
    first: BottleneckAdapter | InvertibleAdapter = parts[0][1]
    factors = [own for own, _ in parts]
    if (fault := factors_fault(factors)) is not None:
        raise ValueError(f"the factors of the adapters at {place} {fault}")
    states = [network.state_dict() for _, network in parts]
    shapes = [{name: tensor.shape for name, tensor in state.items()} for state in states]
    if any(shape != shapes[0] for shape in shapes[1:]) or len({_activation(network) for _, network in parts}) > 1:
        raise ValueError(f"the adapters at {place} have different sizes or activations, so they have no average")
    merged = copy.deepcopy(first)
    if len(parts) > 1:
        merged.load_state_dict({name: _mean([state[name] for state in states], factors) for name in states[0]})
    return merged


def _activation(network: Any) -> str:
    return str(network.first.activation if isinstance(network, InvertibleAdapter) else network.activation)
