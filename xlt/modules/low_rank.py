"""Modules whose delta is computed when they are applied: the products of LoRA and the factors of (IA)^3."""

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from xlt.modules.artefact import ModuleArtefact, ModuleHeader, Undo, check_values
from xlt.modules.sparse_delta import named_tensors


class _FullDeltas(ModuleArtefact):
    """A module that changes whole weights, by deltas that are computed when it is applied; thesis §7.5.1, Eq. 7.9.

    Applying it writes round(float32(weight) + delta) and saves the displaced weights. The fully trained `tensors` (the
    task head) replace the model's tensors, as in a `SparseDelta`.
    """

    tensors: dict[str, Tensor]

    @abstractmethod
    def deltas(self, targets: Mapping[str, Tensor]) -> Mapping[str, Any]:
        """Returns name -> a function that computes the float32 delta of a weight from the weight."""

    @abstractmethod
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns name -> shape of every weight that the module changes by a delta."""

    def layers(self) -> str:
        return ""

    def check(self, model: nn.Module) -> None:
        self._targets(model)

    @torch.no_grad()
    def write_into(self, model: nn.Module) -> Undo:
        targets = self._targets(model)
        displaced = {name: weight.detach().clone() for name, weight in targets.items()}

        @torch.no_grad()
        def undo() -> None:
            for name, weight in targets.items():
                weight.copy_(displaced[name])

        for name, form in self.deltas(targets).items():
            wide = torch.promote_types(targets[name].dtype, torch.float32)
            targets[name].copy_(targets[name].to(wide) + form(targets[name].to(wide)))
        for name, tensor in self.tensors.items():
            targets[name].copy_(tensor)
        return undo

    def _targets(self, model: nn.Module) -> dict[str, Tensor]:
        model_tensors = named_tensors(model)
        shapes = self.shapes() | {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}
        fixed = [name for name in shapes if name in model_tensors and not model_tensors[name].is_floating_point()]
        if fixed:
            fault = f"{fixed[0]!r} is {model_tensors[fixed[0]].dtype} in the model, which no module can change"
            raise ValueError(f"{self.header} does not fit the model: {fault}")
        faults = [
            f"the model has no tensor {name!r}"
            if name not in model_tensors
            else f"{name!r} has shape {shape}, the model's tensor has {tuple(model_tensors[name].shape)}"
            for name, shape in shapes.items()
            if name not in model_tensors or tuple(model_tensors[name].shape) != shape
        ]
        if faults:
            more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
            raise ValueError(f"{self.header} does not fit the model: {faults[0]}{more}")
        return {name: model_tensors[name] for name in shapes}


class LowRankDelta(_FullDeltas):
    """A module of LoRA (Hu et al., 2022): the delta of a weight (rows, columns) is scale * B A.

    A weight is (out, in), but (in, out) in the layers of the GPT-2 family; their A and B are the transposes of LoRA's
    B and A.

    Args:
        header: of kind "low_rank".
        factors: name of the weight -> A (rank, columns) and B (rows, rank).
        scale: alpha / rank, finite.
        tensors: name -> fully trained tensor.
    Raises:
        ValueError: the header's kind is wrong, the scale or a value is not finite, or two factors have no product.
    """

    kind: ClassVar[str] = "low_rank"

    def __init__(
        self,
        header: ModuleHeader,
        factors: Mapping[str, tuple[Tensor, Tensor]],
        scale: float,
        tensors: Mapping[str, Tensor] | None = None,
    ) -> None:
        _check_kind(header, self.kind)
        if not math.isfinite(scale):
            raise ValueError(f"scale={scale}: must be finite")
        for name, (a, b) in factors.items():
            if a.dim() != 2 or b.dim() != 2 or a.shape[0] != b.shape[1]:
                raise ValueError(
                    f"{name!r} has factors A of shape {tuple(a.shape)} and B of {tuple(b.shape)}: they must be "
                    "(rank, columns) and (rows, rank)"
                )
            check_values({f"A of {name}": a, f"B of {name}": b})
        check_values(tensors or {})
        self.header, self.scale = header, scale
        self.factors = {name: (a.detach(), b.detach()) for name, (a, b) in factors.items()}
        self.tensors = {name: tensor.detach() for name, tensor in (tensors or {}).items()}

    def __repr__(self) -> str:
        return f"<{self.header}: {len(self.factors)} weights, {len(self.tensors)} fully trained tensors>"

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: (b.shape[0], a.shape[1]) for name, (a, b) in self.factors.items()}

    def deltas(self, targets: Mapping[str, Tensor]) -> Mapping[str, Any]:
        def form(a: Tensor, b: Tensor) -> Any:
            return lambda weight: self.scale * (b.to(weight) @ a.to(weight))

        return {name: form(a, b) for name, (a, b) in self.factors.items()}

    def to_tensors(self, value_dtype: torch.dtype | None) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Returns layout and tensors. The layout is the scale; the tensors are `a:NAME`, `b:NAME` and `whole:NAME`."""
        tensors = {f"whole:{name}": tensor for name, tensor in self.tensors.items()}
        for name, (a, b) in self.factors.items():
            tensors[f"a:{name}"], tensors[f"b:{name}"] = (
                x if value_dtype is None else x.to(value_dtype) for x in (a, b)
            )
        return {"scale": self.scale}, tensors

    @classmethod
    def from_tensors(cls, header: ModuleHeader, layout: Mapping[str, Any], tensors: dict[str, Tensor]) -> Self:
        parts = _group_by_role(tensors, ("a", "b", "whole"))
        factors = {name: (a, parts["b"][name]) for name, a in parts["a"].items()}
        return cls(header, factors, float(layout["scale"]), parts["whole"])


class Rescaling(_FullDeltas):
    """A module of (IA)^3 (Liu et al., 2022): it multiplies weights and biases by a vector along one dimension.

    The delta of W is W (l - 1), computed from the weight at the time of applying; so the factors of several modules
    multiply.

    Args:
        header: of kind "rescaling".
        factors: name of a weight or bias -> factor, of a shape that broadcasts to it.
        sizes: name -> shape of the weight or bias.
        tensors: name -> fully trained tensor.
    Raises:
        ValueError: the header's kind is wrong, a factor does not broadcast to its tensor, or a value is not finite.
    """

    kind: ClassVar[str] = "rescaling"

    def __init__(
        self,
        header: ModuleHeader,
        factors: Mapping[str, Tensor],
        sizes: Mapping[str, tuple[int, ...]],
        tensors: Mapping[str, Tensor] | None = None,
    ) -> None:
        _check_kind(header, self.kind)
        for name, factor in factors.items():
            size = tuple(sizes[name])
            if factor.dim() != len(size) or any(f not in (1, n) for f, n in zip(factor.shape, size, strict=True)):
                raise ValueError(
                    f"{name!r} has shape {size}, to which its factor of shape {tuple(factor.shape)} does not broadcast"
                )
        check_values({**factors, **(tensors or {})})
        self.header = header
        self.factors = {name: factor.detach() for name, factor in factors.items()}
        self._sizes = {name: tuple(size) for name, size in sizes.items()}
        self.tensors = {name: tensor.detach() for name, tensor in (tensors or {}).items()}

    def __repr__(self) -> str:
        return f"<{self.header}: {len(self.factors)} rescaled tensors, {len(self.tensors)} fully trained tensors>"

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return dict(self._sizes)

    def deltas(self, targets: Mapping[str, Tensor]) -> Mapping[str, Any]:
        def form(factor: Tensor) -> Any:
            return lambda weight: weight * (factor.to(weight) - 1)

        return {name: form(factor) for name, factor in self.factors.items()}

    def to_tensors(self, value_dtype: torch.dtype | None) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Returns layout and tensors. The layout is name -> shape; the tensors are `factor:NAME` and `whole:NAME`."""
        tensors = {f"whole:{name}": tensor for name, tensor in self.tensors.items()}
        for name, factor in self.factors.items():
            tensors[f"factor:{name}"] = factor if value_dtype is None else factor.to(value_dtype)
        return {"sizes": {name: list(size) for name, size in self._sizes.items()}}, tensors

    @classmethod
    def from_tensors(cls, header: ModuleHeader, layout: Mapping[str, Any], tensors: dict[str, Tensor]) -> Self:
        parts = _group_by_role(tensors, ("factor", "whole"))
        sizes = {name: tuple(size) for name, size in layout["sizes"].items()}
        return cls(header, parts["factor"], sizes, parts["whole"])


def _check_kind(header: ModuleHeader, kind: str) -> None:
    if header.kind != kind:
        raise ValueError(f"kind={header.kind!r}: the header of this module must have kind {kind!r}")


def _group_by_role(tensors: Mapping[str, Tensor], roles: tuple[str, ...]) -> dict[str, dict[str, Tensor]]:
    """Groups tensors with names `role:name` by their role; returns role -> name -> tensor."""
    parts: dict[str, dict[str, Tensor]] = {role: {} for role in roles}
    for key, tensor in tensors.items():
        role, _, name = key.partition(":")
        if role not in parts:
            raise ValueError(f"tensor {key!r} is unknown: names must begin with one of {', '.join(roles)}")
        parts[role][name] = tensor
    return parts
