"""LoRA's and (IA)^3's modules: full deltas formed when they are applied, weights put back bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.tolerance import summation_tolerance
from xlt.modules import LowRankDelta, ModuleStack, Rescaling, load_module

NAME = "layer.weight"


class _Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(7, 5)


def _low_rank(module_header, seed: int, scale: float = 0.5) -> LowRankDelta:
    generator = torch.Generator().manual_seed(seed)
    factors = (torch.randn(2, 7, generator=generator), torch.randn(5, 2, generator=generator))
    return LowRankDelta(module_header(kind="low_rank"), {NAME: factors}, scale)


def test_on_paper(module_header) -> None:
    """W = 0 of (2, 2); A = (1, 2), B = (3, 1)^T, scale 2: the delta is ((6, 12), (2, 4))."""
    model = nn.Module()
    model.w = nn.Parameter(torch.zeros(2, 2))
    factors = (torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [1.0]]))
    module = LowRankDelta(module_header(kind="low_rank"), {"w": factors}, 2.0)
    module.apply(model)
    assert model.w.tolist() == [[6.0, 12.0], [2.0, 4.0]]
    module.remove(model)
    assert model.w.tolist() == [[0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_two_of_them_give_the_base_plus_both_full_deltas(module_header, dtype: torch.dtype) -> None:
    """Thesis §7.5.1, Eq. 7.9."""
    model = _Model().to(dtype)
    base = model.layer.weight.detach().clone()
    modules = [_low_rank(module_header, seed) for seed in (1, 2)]
    stack = ModuleStack(model)
    stack.set(modules)
    deltas = [0.5 * (b.double() @ a.double()) for a, b in (module.factors[NAME] for module in modules)]
    expected = base.double() + sum(deltas)
    # The weight is rounded twice, once for each module; before that, deltas of rank 2 are formed in float32 at least.
    tolerance = summation_tolerance(2 if dtype == torch.bfloat16 else 2 * (2 + 1), dtype)
    largest = max(float(tensor.abs().max()) for tensor in (base, expected, *deltas))
    torch.testing.assert_close(model.layer.weight.double(), expected, rtol=0, atol=tolerance * largest)
    stack.set([modules[1]])
    stack.set([])
    assert torch.equal(model.layer.weight, base)


def test_rescaling_multiplies_along_one_dimension_and_comes_off(module_header) -> None:
    model = _Model().double()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    factor = torch.rand(5, 1) + 0.5
    module = Rescaling(
        module_header(kind="rescaling"),
        {NAME: factor, "layer.bias": factor.view(-1)},
        {NAME: (5, 7), "layer.bias": (5,)},
    )
    x = torch.randn(3, 7, dtype=torch.float64)
    expected = model.layer(x) * factor.view(-1)
    module.apply(model)
    torch.testing.assert_close(model.layer(x), expected)
    module.remove(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("kind", ["low_rank", "rescaling"])
def test_a_file_gives_back_what_was_saved(kind: str, module_header, tmp_path: Path, bits) -> None:
    if kind == "low_rank":
        module = _low_rank(module_header, 1)
    else:
        module = Rescaling(
            module_header(kind=kind), {NAME: torch.rand(1, 7)}, {NAME: (5, 7)}, {"layer.bias": torch.ones(5)}
        )
    module.save(tmp_path / "m.safetensors")
    loaded = load_module(tmp_path / "m.safetensors")
    assert type(loaded) is type(module)
    models = []
    for one in (module, loaded):
        model = _Model()
        one.apply(model)
        models.append(bits(model.state_dict()))
    assert models[0] == models[1]


def test_what_does_not_fit_is_refused_and_nothing_changes(module_header, bits) -> None:
    model, header = _Model(), module_header(kind="low_rank")
    before = bits(model.state_dict())
    for name, a, message in (("other", torch.zeros(2, 7), "no tensor 'other'"), (NAME, torch.zeros(2, 6), "has shape")):
        with pytest.raises(ValueError, match=message):
            LowRankDelta(header, {name: (a, torch.zeros(5, 2))}, 1.0).apply(model)
    assert bits(model.state_dict()) == before
    with pytest.raises(ValueError, match=r"\(2, 7\).*\(5, 3\)"):
        LowRankDelta(header, {NAME: (torch.zeros(2, 7), torch.zeros(5, 3))}, 1.0)
    with pytest.raises(ValueError, match="'rescaling'"):
        Rescaling(header, {}, {})
    with pytest.raises(ValueError, match=r"\(5, 7\).*\(6, 1\)"):
        Rescaling(module_header(kind="rescaling"), {NAME: torch.ones(6, 1)}, {NAME: (5, 7)})
