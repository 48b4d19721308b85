"""The module of sparse fine-tuning: a sparse delta, and tensors that were trained in full, such as a task head."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import nn
from xlt_kernels.delta_write import add_delta, restore_entries, swap_delta

from xlt.modules.artefact import ModuleArtefact, ModuleHeader, Undo, check_values
from xlt.modules.index_coding import decode_indices, encode_indices

LM_HEAD_PREFIX = "lm_head."

_LARGEST_INT32 = 2**31 - 1
_STORED_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_FAULTS_SHOWN = 3


@dataclasses.dataclass(frozen=True, eq=False)
class Entries:
    """The sparse delta of one tensor: the indices of the changed entries, and their differences from the base.

    Args:
        indices: (N,) int32 or int64 flat row-major indices, strictly ascending; None means every entry. They are
            converted to int32 if the tensor has at most 2^31 - 1 entries, else to int64.
        values: (N,) floating point, finite: trained value minus base value.
        shape: of the whole tensor.
    Raises:
        ValueError: indices are unsorted, repeated or out of range; a length or dtype is wrong; a value is not finite.
    """

    indices: torch.Tensor | None
    values: torch.Tensor
    shape: Sequence[int]

    def __post_init__(self) -> None:
        shape = torch.Size(self.shape)
        object.__setattr__(self, "shape", shape)
        if self.values.ndim != 1:
            raise ValueError(f"values have shape {tuple(self.values.shape)}: they must have one dimension")
        check_values({"values": self.values})
        expected = self.total if self.indices is None else self.indices.numel()
        if self.values.numel() != expected:
            raise ValueError(
                f"a tensor of shape {tuple(shape)} has {expected} indices but {self.values.numel()} values: "
                "the numbers must be equal"
            )
        if self.indices is not None:
            object.__setattr__(self, "indices", _check_indices(self.indices, self.total))

    @property
    def total(self) -> int:
        """Number of entries of the whole tensor."""
        return math.prod(self.shape)

    def to(self, device: torch.device) -> "Entries":
        """Returns the same entries on `device`, without checking them again."""
        copy = object.__new__(Entries)
        object.__setattr__(copy, "indices", None if self.indices is None else self.indices.to(device))
        object.__setattr__(copy, "values", self.values.to(device))
        object.__setattr__(copy, "shape", self.shape)
        return copy


class SparseDelta(ModuleArtefact):
    """A module of differences from the base model at selected entries, and of tensors that were trained in full.

    Thesis §4.3: phi = theta1 - theta0 on the selected entries. Applying it writes round(float32(base) + float32(delta))
    in place; removing it puts the displaced values back. The fully trained `tensors` (the task head) replace the
    model's tensors and are restored in the same way. If the module was trained with untied output embeddings, applying
    it unties the model's. Names are those of `model.named_parameters()`. Names under `lm_head.` are skipped
    if the model has no `lm_head`, so that a language module can contain its LM head and still be used in a tagger.
    Every other name must be in the model, with the same shape.

    Args:
        header: of kind "sparse_delta".
        entries: name -> changed entries.
        tensors: name -> fully trained tensor; not copied. No name may be in both mappings.
    Raises:
        ValueError: the header's kind is wrong, a name is in both mappings, or a value is not finite.
    """

    kind: ClassVar[str] = "sparse_delta"

    def __init__(
        self,
        header: ModuleHeader,
        entries: Mapping[str, Entries],
        tensors: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        if header.kind != self.kind:
            raise ValueError(f"kind={header.kind!r}: the header of a SparseDelta must have kind {self.kind!r}")
        self.header = header
        self.entries = dict(entries)
        self.tensors = {name: tensor.detach() for name, tensor in (tensors or {}).items()}
        both = sorted(self.entries.keys() & self.tensors.keys())
        if both:
            raise ValueError(f"{header}: {both[0]!r} is both a sparse delta and a fully trained tensor")
        check_values(self.tensors)
        self._device_copies: dict[tuple[str, torch.device], Entries] = {}

    def __repr__(self) -> str:
        return (
            f"<{self.header}: {self.num_entries} entries in {len(self.entries)} tensors, "
            f"{len(self.tensors)} fully trained tensors>"
        )

    @property
    def num_entries(self) -> int:
        """Number of entries in all sparse deltas; fully trained tensors do not count."""
        return sum(entries.values.numel() for entries in self.entries.values())

    def layers(self) -> str:
        return ""

    def check(self, model: nn.Module) -> None:
        self.targets(model)

    def write_into(self, model: nn.Module) -> Undo:
        return self._write_all(model, _Restoration())

    def write_over(self, model: nn.Module, undo: Undo) -> Undo | None:
        """Replaces another sparse delta tensor by tensor, on a GPU with one launch for each that both change."""
        if not isinstance(undo, _Restoration) or undo.tie is not None or self.header.untied or undo.dtype_fault():
            return None
        return self._write_all(model, undo)

    @torch.no_grad()
    def _write_all(self, model: nn.Module, before: "_Restoration") -> Undo:
        """Writes the module in place of the one that `before` removes; an empty `before` removes none."""
        restoration = _Restoration()
        try:
            untie: Callable[[], Undo] | None = getattr(model, "untie_embeddings", None)
            if self.header.untied and untie is not None:
                restoration.tie = untie()
            displaced = before.by_weight()
            for name, weight in self.targets(model).items():
                self._write(name, weight, restoration, displaced.pop(id(weight), []))
            for saved in (saved for of_weight in displaced.values() for saved in of_weight):
                saved.put_back()
        except BaseException:
            restoration()
            before()
            raise
        return restoration

    def _write(self, name: str, weight: torch.Tensor, restoration: "_Restoration", displaced: list["_Saved"]) -> None:
        """Writes one tensor of the module, after its `displaced` values have been put back."""
        entries = None if name in self.tensors else self._entries_on(name, weight.device)
        if entries is None or entries.indices is None:
            for saved in displaced:
                saved.put_back()
            base = restoration.save(weight)
            if entries is None:
                weight.copy_(self.tensors[name])
            else:
                wide = torch.promote_types(weight.dtype, torch.float32)
                weight.copy_(base.to(wide) + entries.values.to(wide).view(weight.shape))
            return
        if not displaced or any(saved.indices is None for saved in displaced):
            for saved in displaced:
                saved.put_back()
            base = add_delta(weight, entries.indices, entries.values)
        else:
            old_indices, old_base = _joined(displaced)
            base = swap_delta(weight, old_indices, old_base, entries.indices, entries.values)
        restoration.saved.append(_Saved(weight, entries.indices, base))

    def _entries_on(self, name: str, device: torch.device) -> Entries:
        """Returns the entries on the weight's device. The copy is cached, so that switching languages is cheap."""
        entries = self.entries[name]
        if entries.values.device == device:
            return entries
        if (name, device) not in self._device_copies:
            self._device_copies[name, device] = entries.to(device)
        return self._device_copies[name, device]

    def targets(self, model: nn.Module) -> dict[str, torch.Tensor]:
        """Returns name -> the model's own tensor, for every tensor of the module that this model uses.

        Raises:
            ValueError: the module does not fit the model.
        """
        available = named_tensors(model)
        skip = getattr(model, LM_HEAD_PREFIX.rstrip("."), None) is None
        unties = self.header.untied and hasattr(model, "untie_embeddings")  # applying will end the sharing
        shapes = {name: tuple(entries.shape) for name, entries in self.entries.items()}
        shapes.update((name, tuple(tensor.shape)) for name, tensor in self.tensors.items())
        targets: dict[str, torch.Tensor] = {}
        first_name: dict[int, str] = {}
        faults: list[str] = []
        for name, shape in shapes.items():
            if skip and name.startswith(LM_HEAD_PREFIX):
                continue
            weight = available.get(name)
            if weight is None:
                faults.append(f"the model has no tensor {name!r}")
            elif tuple(weight.shape) != shape:
                faults.append(f"{name!r} has shape {shape}, the model's has {tuple(weight.shape)}")
            elif not weight.is_floating_point():
                faults.append(f"{name!r} is {weight.dtype} in the model, which no module can change")
            elif (twin := first_name.setdefault(id(weight), name)) != name and not (
                unties and name.startswith(LM_HEAD_PREFIX) != twin.startswith(LM_HEAD_PREFIX)
            ):
                faults.append(f"{twin!r} and {name!r} are one shared tensor in the model, which would change twice")
            else:
                targets[name] = weight
        if faults:
            more = f", and {len(faults) - _FAULTS_SHOWN} more" if len(faults) > _FAULTS_SHOWN else ""
            raise ValueError(f"{self.header} does not fit the model: {'; '.join(faults[:_FAULTS_SHOWN])}{more}")
        return targets

    def to_tensors(self, value_dtype: torch.dtype | None) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """Returns layout and tensors. The layout is name -> shape; the fully trained tensors are `whole:<name>`.

        The tensors of a sparse delta are `values:<name>`, `gaps:<name>` and `escapes:<name>`. A delta without gaps has
        all entries of its tensor. `value_dtype` applies to the deltas only; fully trained tensors keep their dtype.
        """
        if value_dtype is not None and value_dtype not in _STORED_DTYPES:
            raise ValueError(f"value_dtype={value_dtype}: must be one of {', '.join(map(str, _STORED_DTYPES))}")
        tensors: dict[str, torch.Tensor] = {f"whole:{name}": tensor for name, tensor in self.tensors.items()}
        for name, entries in self.entries.items():
            tensors[f"values:{name}"] = _convert(name, entries.values, value_dtype)
            if entries.indices is not None:
                gaps, escapes = encode_indices(entries.indices.cpu())
                tensors[f"gaps:{name}"] = gaps
                if escapes.numel():
                    tensors[f"escapes:{name}"] = escapes
        return {"entries": {name: list(entries.shape) for name, entries in self.entries.items()}}, tensors

    @classmethod
    def from_tensors(cls, header: ModuleHeader, layout: Mapping[str, Any], tensors: dict[str, torch.Tensor]) -> Self:
        entries = {}
        for name, shape in layout["entries"].items():
            gaps = tensors.pop(f"gaps:{name}", None)
            escapes = tensors.pop(f"escapes:{name}", torch.empty(0, dtype=torch.int32))
            indices = None if gaps is None else decode_indices(gaps, escapes, math.prod(shape))
            entries[name] = Entries(indices, tensors.pop(f"values:{name}"), shape)
        whole = {}
        for key, tensor in tensors.items():
            role, _, name = key.partition(":")
            if role != "whole":
                raise ValueError(f"unexpected tensor {key!r}")
            whole[name] = tensor
        return cls(header, entries, whole)


def named_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Returns name -> parameter of a model, under the names that modules use.

    Buffers, such as the numbers of positions, are no part of what is trained. A layer that peft has wrapped is listed
    under the name that it had before.
    """
    named = model.named_parameters(remove_duplicate=False)
    return {name.replace(".base_layer.", "."): tensor for name, tensor in named}


def is_head(module: ModuleArtefact) -> bool:
    """Returns whether a module has only tensors that were trained in full, as a task head, and no delta."""
    return isinstance(module, SparseDelta) and not module.entries and bool(module.tensors)


@dataclasses.dataclass(frozen=True, eq=False)
class _Saved:
    """Values that a module displaced in one weight.

    Attributes:
        weight: the model's own tensor.
        indices: (N,) flat indices of the values; None means all.
        values: (N,) or of the weight's shape, of the weight's dtype.
    """

    weight: torch.Tensor
    indices: torch.Tensor | None
    values: torch.Tensor

    def put_back(self) -> None:
        if self.indices is None:
            self.weight.copy_(self.values)
        else:
            restore_entries(self.weight, self.indices.to(self.weight.device), self.values.to(self.weight.device))


def _joined(saved: Sequence[_Saved]) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns indices and values of the saved parts of one weight, on its device."""
    device = saved[0].weight.device
    if len(saved) == 1:
        assert saved[0].indices is not None
        return saved[0].indices.to(device), saved[0].values.to(device)
    indices = [part.indices for part in saved if part.indices is not None]
    return torch.cat(indices).to(device), torch.cat([part.values for part in saved]).to(device)


class _Restoration:
    """The values that a module displaced; a call puts them back into their tensors.

    Attributes:
        saved: the values, in the order in which they were displaced.
        tie: a function that ties the embeddings again which the module untied; None if it untied none.
    """

    tie: Undo | None = None

    def __init__(self) -> None:
        self.saved: list[_Saved] = []

    def save(self, weight: torch.Tensor) -> torch.Tensor:
        """Saves and returns all values of the weight."""
        values = weight.detach().clone()
        self.saved.append(_Saved(weight, None, values))
        return values

    def by_weight(self) -> dict[int, list[_Saved]]:
        """Returns id of the weight -> its saved values."""
        found: dict[int, list[_Saved]] = {}
        for saved in self.saved:
            found.setdefault(id(saved.weight), []).append(saved)
        return found

    def dtype_fault(self) -> str | None:
        """Returns why the values cannot be put back unrounded; None if they can."""
        for saved in self.saved:
            if saved.weight.dtype != saved.values.dtype:
                return (
                    f"the model's dtype changed from {saved.values.dtype} to {saved.weight.dtype} while modules were "
                    "active: remove them before changing its dtype"
                )
        return None

    @torch.no_grad()
    def __call__(self) -> None:
        if fault := self.dtype_fault():
            raise ValueError(fault)
        for saved in self.saved:
            saved.put_back()
        if self.tie is not None:
            self.tie()


def _check_indices(indices: torch.Tensor, total: int) -> torch.Tensor:
    if indices.ndim != 1 or indices.dtype not in (torch.int32, torch.int64):
        raise ValueError(
            f"indices have dtype {indices.dtype} and {indices.ndim} dimensions: they must be int32 or int64 of one"
        )
    if indices.numel():
        if not bool((indices[1:] > indices[:-1]).all()):
            raise ValueError("indices repeat or are out of order: they must be strictly ascending")
        first, last = int(indices[0]), int(indices[-1])
        if first < 0 or last >= total:
            raise ValueError(f"indices go from {first} to {last}: a tensor of {total} entries has 0 to {total - 1}")
    return indices.to(torch.int32 if total <= _LARGEST_INT32 else torch.int64)


def _convert(name: str, values: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    if dtype is None or values.dtype == dtype:
        return values
    converted = values.to(dtype)
    if not bool(torch.isfinite(converted).all()):
        raise ValueError(f"tensor {name!r} has a value that is too large for {dtype}: save it as bfloat16 or float32")
    return converted
