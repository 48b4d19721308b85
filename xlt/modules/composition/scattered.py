"""A module whose entries are scattered at random: what a module of this size and norm does that learned nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from xlt_kernels.select import select_at_random

from xlt.config.schema import optional
from xlt.modules.artefact import ModuleArtefact
from xlt.modules.composition.arithmetic import header_of
from xlt.modules.composition.expression import OperatorConfig
from xlt.modules.sparse_delta import Entries, SparseDelta


@dataclass
class ScatteredConfig(OperatorConfig):
    """Schema of the operator `scattered`."""

    takes = (SparseDelta,)
    count = 1

    operator: str = "scattered"
    seed: int = optional("seed of the places", 0, low=0)


SCHEMA = ScatteredConfig


def scattered(module: SparseDelta, random: Callable[..., torch.Generator]) -> SparseDelta:
    """Moves the values of each tensor to places that are drawn at random, in random order.

    Each tensor has as many entries as before and the same norm; in a tensor with every entry, the values change places.
    Tensors that were trained in full, such as heads, stay as they are.

    Args:
        module: a sparse delta.
        random: returns the generator of a named stream; the draws depend on it and on the name of the tensor alone.
    """
    entries = {}
    for name, own in module.entries.items():
        generator = random("scattered", name)
        values = own.values[torch.randperm(own.values.numel(), generator=generator)]
        places = None
        if own.indices is not None:
            places = select_at_random({name: torch.Size(own.shape)}, own.values.numel(), generator)[name]
        entries[name] = Entries(places, values, own.shape)
    return SparseDelta(header_of([module], "scattered", {}), entries, module.tensors)


def compute(modules: Sequence[ModuleArtefact], random: Callable[..., torch.Generator]) -> ModuleArtefact:
    """Scatters the entries of one module; see `scattered`."""
    (module,) = modules
    assert isinstance(module, SparseDelta)
    return scattered(module, random)
