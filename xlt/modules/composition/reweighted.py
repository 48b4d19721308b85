"""Weighted sums of the same sparse deltas in one model: another weight costs a pass over their entries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from xlt_kernels.delta_write import gather_entries, restore_entries, write_delta

from xlt.modules.artefact import ModuleArtefact, ModuleHeader
from xlt.modules.composition.arithmetic import weights_of
from xlt.modules.composition.sum import sum_deltas
from xlt.modules.sparse_delta import SparseDelta
from xlt.modules.stack import Undo

_BLOCK = 2**15  # entries that are computed together: their values fit into a cache


class ReweightedSum:
    """The sum of sparse deltas, whose weights can be changed while it is in a model.

    `ModuleStack.apply` and `remove` take it as they take a module. Each `set` writes the same bits as
    `sum_deltas(modules, weights)` would, but the union of the entries, and the displaced values, are found only once.

    Args:
        modules: at least one sparse delta, all of one base model; they do not change. Fully trained tensors are taken
            over unchanged.
    Raises:
        ValueError: the modules do not fit together, or are no sparse deltas.
    """

    def __init__(self, modules: Sequence[ModuleArtefact]) -> None:
        total = sum_deltas(modules)
        if not isinstance(total, SparseDelta):
            raise ValueError(f"{total.header}: only sparse deltas are reweighted in place")
        self.header: ModuleHeader = total.header
        self.weights = [1.0] * len(modules)
        self._modules = list(modules)
        self._whole = SparseDelta(total.header, {}, total.tensors)
        self._total = total
        self._active: list[_Block] = []
        self._values = {name: _aligned(name, total, self._modules) for name in total.entries}

    def check(self, model: nn.Module) -> None:
        """Raises a ValueError if the sum cannot be written into `model`; changes nothing."""
        self._total.check(model)

    def write_into(self, model: nn.Module) -> Undo:
        """Writes the sum with the present weights, and returns a function that removes it bit for bit.

        Raises:
            ValueError: it does not fit the model, or is in a model already.
        """
        if self._active:
            raise ValueError(f"{self.header} is in a model already")
        undo_whole = self._whole.write_into(model)
        targets = self._total.targets(model)
        for name in self._total.entries.keys() & targets.keys():
            self._active += _blocks(targets[name], self._total.entries[name].indices, self._values[name])
        self._write()

        def undo() -> None:
            for block in self._active:
                block.restore()
            self._active = []
            undo_whole()

        return undo

    def write_over(self, model: nn.Module, undo: Undo) -> None:
        """Returns None: the sum is written anew, because its base values must be the model's."""

    def set(self, weights: Sequence[float]) -> None:
        """Changes the weights, also of the sum that is in a model.

        Raises:
            ValueError: there is not one weight for each module.
        """
        self.weights = weights_of(self._modules, weights)
        self._write()

    def module(self) -> ModuleArtefact:
        """Returns the sum with the present weights as a module of its own."""
        return sum_deltas(self._modules, self.weights)

    @torch.no_grad()
    def _write(self) -> None:
        for block in self._active:
            block.write(self.weights)


@dataclass(frozen=True)
class _Block:
    """Entries of one tensor.

    Attributes:
        weight: the model's tensor.
        indices: (N,) flat indices; None: the block is the whole tensor.
        values: (modules, N), zero where a module has no entry.
        base: (N,) displaced values.
    """

    weight: Tensor
    indices: Tensor | None
    values: Tensor
    base: Tensor

    def write(self, weights: Sequence[float]) -> None:
        delta = torch.zeros_like(self.values[0])
        for values, weight in zip(self.values, weights, strict=True):
            if weight != 0:
                delta += values * weight
        if self.indices is None:
            wide = torch.promote_types(self.weight.dtype, torch.float32)
            self.weight.copy_(self.base.to(wide) + delta.to(wide).view(self.weight.shape))
        else:
            write_delta(self.weight, self.indices, self.base, delta)

    @torch.no_grad()
    def restore(self) -> None:
        if self.indices is None:
            self.weight.copy_(self.base)
        else:
            restore_entries(self.weight, self.indices, self.base)


def _aligned(name: str, total: SparseDelta, modules: Sequence[ModuleArtefact]) -> Tensor:
    """Returns (modules, N): the values of each module at the N entries of the sum."""
    whole = total.entries[name]
    aligned = torch.zeros(len(modules), whole.values.numel(), dtype=whole.values.dtype)
    for row, module in zip(aligned, modules, strict=True):
        entries = module.entries.get(name)  # type: ignore[attr-defined]
        if entries is None:
            continue
        if entries.indices is None:
            row += entries.values.to(row.dtype)
        elif whole.indices is None:
            row[entries.indices.long()] = entries.values.to(row.dtype)
        else:
            row[torch.searchsorted(whole.indices, entries.indices)] = entries.values.to(row.dtype)
    return aligned


def _blocks(weight: Tensor, indices: Tensor | None, values: Tensor) -> list[_Block]:
    values = values.to(weight.device)
    if indices is None:
        return [_Block(weight, None, values, weight.detach().clone())]
    parts = zip(indices.to(weight.device).split(_BLOCK), values.split(_BLOCK, 1), strict=True)
    return [_Block(weight, part, one, gather_entries(weight, part)) for part, one in parts]
