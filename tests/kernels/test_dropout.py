"""Dropout drawn 16 bits an entry, against its definition in float64."""

import pytest
import torch
from torch import Tensor
from xlt_kernels.dropout import draw_keep_mask, dropout, dropout_definition


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(), (1,), (5, 7), (3, 0, 2), (9, 41, 34)])
def test_result_and_gradient_equal_the_definition(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    draw = torch.Generator().manual_seed(1)
    values = torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype).requires_grad_(True)
    torch.manual_seed(2)
    found = dropout(values, 0.3)
    torch.manual_seed(2)
    kept = draw_keep_mask(shape, 0.3, values.device)
    wanted = dropout_definition(values.double(), kept, 0.3)
    tolerance = 4 * torch.finfo(dtype).eps  # the factor and the product are rounded to the dtype
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), wanted, rtol=tolerance, atol=0)
    upstream = torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype)
    (ours,) = torch.autograd.grad(found, values, upstream)
    torch.testing.assert_close(ours.double(), dropout_definition(upstream.double(), kept, 0.3), rtol=tolerance, atol=0)


def test_four_entries_on_paper() -> None:
    kept = torch.tensor([True, False, True, False])
    wanted = torch.tensor([2.0, 0.0, 6.0, 0.0])
    assert torch.equal(dropout_definition(torch.tensor([1.0, 2.0, 3.0, 4.0]), kept, 0.5), wanted)


def test_a_byte_an_entry_is_kept_for_the_backward_pass() -> None:
    kept: list[int] = []

    def remember(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel() * tensor.element_size())
        return tensor

    values = torch.ones(64, 3, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        dropout(values, 0.1)
    assert kept == [64 * 3]


def test_without_a_probability_nothing_is_drawn() -> None:
    torch.manual_seed(3)
    values = torch.ones(4)
    assert torch.equal(dropout(values, 0.0), values)
    after = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(1), after)


@pytest.mark.parametrize("dropout", [0.1, 0.5, 0.9])
def test_entries_are_dropped_independently_with_their_probability(dropout: float) -> None:
    torch.manual_seed(0)
    dropped = ~draw_keep_mask((999, 1001), dropout, torch.device("cpu"))
    deviation = (dropout * (1 - dropout) / dropped.numel()) ** 0.5
    assert dropped.double().mean().item() == pytest.approx(dropout, abs=5 * deviation + 2**-16)
    flat = dropped.flatten()
    for step in (1, 2, 3, 4):  # four entries share a draw
        both = (flat[:-step] & flat[step:]).double().mean().item()
        assert both == pytest.approx(dropout**2, abs=5 * (dropout**2 * (1 - dropout**2) / len(flat)) ** 0.5 + 1e-4)
        every_fourth = flat[step - 1 :: 4].double().mean().item()
        assert every_fourth == pytest.approx(dropout, abs=10 * deviation + 2**-16)
