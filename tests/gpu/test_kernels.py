"""Every kernel on the device against its definition on the CPU, at sizes of a real layer and in all dtypes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from xlt_kernels.delta_write import (
    gather_entries,
    restore_entries,
    swap_delta,
    swap_delta_definition,
    write_delta,
    write_delta_definition,
)
from xlt_kernels.embedding_rows import rows_gradient, rows_gradient_definition
from xlt_kernels.outer_topk import outer_topk, outer_topk_definition
from xlt_kernels.select import select_largest, select_most_changed, select_most_changed_definition
from xlt_kernels.sm3 import sm3_step, sm3_step_definition
from xlt_kernels.sparse_linear import sampled_gradient, sampled_gradient_definition
from xlt_kernels.sparse_pattern import SparsePattern

from tests.tolerance import summation_tolerance

ROWS, COLUMNS, TOKENS = 384, 1536, 512
FLOATS = [torch.float32, torch.bfloat16, torch.float16]
INDICES = [torch.int32, torch.int64]


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def some_indices(share: float, dtype: torch.dtype = torch.int64, seed: int = 0) -> Tensor:
    order = torch.randperm(ROWS * COLUMNS, generator=torch.Generator().manual_seed(seed))
    return order[: round(share * ROWS * COLUMNS)].sort().values.to(dtype)


def some_pattern(share: float, device: torch.device) -> SparsePattern:
    return SparsePattern.from_indices(some_indices(share).to(device), ROWS, COLUMNS)


@pytest.mark.parametrize("index_dtype", INDICES)
@pytest.mark.parametrize("dtype", [*FLOATS, torch.float64])
def test_a_delta_is_written_and_taken_out_again_bit_for_bit(
    dtype: torch.dtype, index_dtype: torch.dtype, device: torch.device
) -> None:
    weight, indices = draw(ROWS, COLUMNS, seed=1, dtype=dtype), some_indices(0.08, index_dtype)
    delta = draw(len(indices), seed=2) * 1e-3
    expected = weight.clone()
    write_delta_definition(expected, indices, gather_entries(expected, indices), delta)
    moved, places = weight.to(device), indices.to(device)
    base = gather_entries(moved, places)
    write_delta(moved, places, base, delta.to(device))
    assert moved.device.type == device.type and torch.equal(moved.cpu(), expected)
    restore_entries(moved, places, base)
    assert torch.equal(moved.cpu(), weight)


@pytest.mark.parametrize("index_dtype", INDICES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_one_delta_is_exchanged_for_another(dtype: torch.dtype, index_dtype: torch.dtype, device: torch.device) -> None:
    base = draw(ROWS, COLUMNS, seed=1, dtype=dtype)
    old, new = some_indices(0.05, index_dtype), some_indices(0.08, index_dtype, seed=1)
    old_base = gather_entries(base, old)
    delta = draw(len(new), seed=3)
    weight = base.clone()
    write_delta_definition(weight, old, old_base, draw(len(old), seed=2))
    moved = weight.clone().to(device)
    assert torch.equal(swap_delta_definition(weight, old, old_base, new, delta), gather_entries(base, new))
    found = swap_delta(moved, *(one.to(device) for one in (old, old_base, new, delta)))
    assert torch.equal(moved.cpu(), weight) and torch.equal(found.cpu(), gather_entries(base, new))


@pytest.mark.parametrize("share", [0.0025, 0.08, 1.0])
@pytest.mark.parametrize("dtype", FLOATS)
def test_the_gradient_at_the_entries(dtype: torch.dtype, share: float, device: torch.device) -> None:
    dy, x = draw(TOKENS, ROWS, seed=1, dtype=dtype), draw(TOKENS, COLUMNS, seed=2, dtype=dtype)
    exact = sampled_gradient_definition(dy.double(), x.double(), some_pattern(share, torch.device("cpu")))
    found = sampled_gradient(dy.to(device), x.to(device), some_pattern(share, device))
    assert found.dtype == torch.float32
    # Products are exact and summed in float32; a dense product in half precision is rounded to it once. Tensor cores
    # round float32 operands to 10 bits only if torch is told to, which xlt does not.
    tolerance = summation_tolerance(TOKENS, torch.float32) * float(dy.abs().max() * x.abs().max())
    rounded = summation_tolerance(1, dtype) if dtype != torch.float32 else tolerance
    torch.testing.assert_close(found.cpu().double(), exact, rtol=rounded, atol=tolerance)


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_gradient_of_embedding_rows(dtype: torch.dtype, device: torch.device) -> None:
    ids = torch.randint(0, ROWS, (TOKENS,), generator=torch.Generator().manual_seed(3))
    dy = draw(TOKENS, COLUMNS, seed=1, dtype=dtype)
    exact = rows_gradient_definition(ids, dy.double(), some_pattern(0.08, torch.device("cpu")), 5)
    found = rows_gradient(ids.to(device), dy.to(device), some_pattern(0.08, device), 5)
    again = rows_gradient(ids.to(device), dy.to(device), some_pattern(0.08, device), 5)
    tolerance = summation_tolerance(TOKENS, torch.float32) * float(dy.abs().max())
    torch.testing.assert_close(found.cpu().double(), exact.double(), rtol=tolerance, atol=tolerance)
    assert torch.equal(found, again)


@pytest.mark.parametrize("variant", ["I", "II"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_ten_steps_of_sm3(momentum: float, variant: str, device: torch.device) -> None:
    states = []
    for place, step in ((torch.device("cpu"), sm3_step_definition), (device, sm3_step)):
        pattern = some_pattern(0.02, place)
        delta, buffer = torch.zeros(len(pattern), device=place), torch.zeros(len(pattern), device=place)
        rows, columns = torch.zeros(ROWS, device=place), torch.zeros(COLUMNS, device=place)
        for number in range(10):
            gradient = draw(len(pattern), seed=number).to(place)
            mean = buffer if momentum else None
            step(delta, gradient, pattern, rows, columns, 0.01, 1e-8, 0.1, momentum, mean, variant)
        states.append([part.cpu() for part in (delta, rows, columns)])
    for ours, definition in zip(states[1], states[0], strict=True):
        torch.testing.assert_close(ours, definition, rtol=1e-5, atol=1e-6)  # ten steps of a few float32 operations


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_entries_that_changed_most(dtype: torch.dtype, device: torch.device) -> None:
    before = {name: draw(ROWS, COLUMNS, seed=seed, dtype=dtype) for seed, name in enumerate("ab")}
    after = {name: (one.float() + 1e-2 * draw(ROWS, COLUMNS, seed=9)).to(dtype) for name, one in before.items()}
    expected = select_most_changed_definition(after, before, 10_000)
    found = select_most_changed(*({n: t.to(device) for n, t in side.items()} for side in (after, before)), 10_000)
    assert {n: places.cpu().tolist() for n, places in found.items()} == {n: p.tolist() for n, p in expected.items()}


def test_the_largest_values_and_the_largest_products_with_equal_ones_drawn_alike(device: torch.device) -> None:
    values = draw(ROWS, COLUMNS, seed=4).mul(8).round()  # many are equal
    excluded = some_indices(0.05)
    on_cpu = select_largest(values.clone(), 5000, excluded, torch.Generator().manual_seed(7))
    found = select_largest(values.to(device), 5000, excluded.to(device), torch.Generator().manual_seed(7))
    assert torch.equal(found.cpu(), on_cpu)
    r, c = draw(ROWS, seed=5).abs(), draw(COLUMNS, seed=6).abs().mul(8).round()
    ours = outer_topk(r.to(device), c.to(device), 5000, excluded.to(device), torch.Generator().manual_seed(7))
    on_cpu, _ = outer_topk(r, c, 5000, excluded, torch.Generator().manual_seed(7))
    assert torch.equal(ours[0].cpu(), on_cpu)
    defined, _ = outer_topk_definition(r, c, 5000, excluded, torch.Generator().manual_seed(7))
    products = torch.outer(r, c).view(-1)  # of equal products, the definition draws others
    assert torch.equal(products[ours[0].cpu()].sort().values, products[defined].sort().values)
