"""A sum whose weights change in a model: the bits of the sum computed anew, and the base's when it is removed."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from tests.xlt.modules.composition.test_operators import SHAPES, header, low_rank, sparse
from xlt.modules import Entries, ModuleStack, SparseDelta
from xlt.modules.composition.reweighted import ReweightedSum
from xlt.modules.composition.sum import sum_deltas


class Flat(nn.Module):
    """A model with the tensors of `SHAPES`, and another one that no module changes."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.shapes = {**SHAPES, "other.weight": (3, 3)}
        for number, (name, shape) in enumerate(self.shapes.items()):
            *path, last = name.split(".")
            place: nn.Module = self
            for part in path:
                if not hasattr(place, part):
                    place.add_module(part, nn.Module())
                place = getattr(place, part)
            values = torch.randn(shape, generator=torch.Generator().manual_seed(number)).to(dtype)
            place.register_parameter(last, nn.Parameter(values))

    def bits(self) -> dict[str, bytes]:
        return {n: p.detach().contiguous().view(torch.uint8).numpy().tobytes() for n, p in self.named_parameters()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_weight_writes_the_bits_of_the_sum_and_removal_restores_the_base(dtype: torch.dtype) -> None:
    modules = [sparse(1), sparse(2), sparse(5)]
    model, other = Flat(dtype), Flat(dtype)
    before, stack = model.bits(), ModuleStack(model)
    total = ReweightedSum(modules)
    stack.apply(total)
    for weights in itertools.product((0.0, 0.3, -1.7), repeat=3):
        total.set(weights)
        expected = sum_deltas(modules, weights)
        expected.apply(other)
        assert model.bits() == other.bits(), weights
        expected.remove(other)
        assert total.module().header.provenance["settings"] == {"weights": list(weights)}
    stack.remove(total)
    assert model.bits() == before == other.bits()


def test_it_stands_on_other_modules_and_takes_a_head_over() -> None:
    under, model = sparse(4), Flat()
    before, stack = model.bits(), ModuleStack(model)
    one = sparse(1)
    one.tensors["other.weight"] = torch.ones(3, 3)
    total = ReweightedSum([one, sparse(2)])
    total.set([0.5, 2])
    stack.set([under, total])
    expected = Flat()
    ModuleStack(expected).set([under, sum_deltas([one, sparse(2)], [0.5, 2])])
    assert model.bits() == expected.bits() and model.get_parameter("other.weight").eq(1).all()
    with pytest.raises(ValueError, match="in a model already"):
        total.write_into(Flat())
    stack.set([])
    assert model.bits() == before


def test_what_is_no_sum_of_sparse_deltas_is_refused() -> None:
    with pytest.raises(ValueError, match="only sparse deltas"):
        ReweightedSum([low_rank(1), low_rank(2)])
    with pytest.raises(ValueError, match="2 modules but 1 weights"):
        ReweightedSum([sparse(1), sparse(2)]).set([1.0])
    total = ReweightedSum([SparseDelta(header(), {"nowhere": Entries(torch.tensor([0]), torch.ones(1), (2,))})])
    with pytest.raises(ValueError, match="no tensor 'nowhere'"):
        ModuleStack(Flat()).apply(total)
