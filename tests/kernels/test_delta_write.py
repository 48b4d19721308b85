from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from xlt_kernels.delta_write import (
    add_delta,
    gather_entries,
    restore_entries,
    swap_delta,
    swap_delta_definition,
    write_delta,
    write_delta_definition,
)

from tests.tolerance import summation_tolerance

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
ROWS, COLUMNS = 9, 41


def some_indices(count: int, dtype: torch.dtype = torch.int64) -> Tensor:
    order = torch.randperm(ROWS * COLUMNS, generator=torch.Generator().manual_seed(count))
    return order[:count].sort().values.to(dtype)


def some_weight(dtype: torch.dtype) -> Tensor:
    return (torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(0)) * 0.02).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("count", [0, 1, 100, ROWS * COLUMNS])
@pytest.mark.parametrize("transposed", [False, True])
def test_the_sum_is_rounded_once_and_nothing_else_moves(
    dtype: torch.dtype, index_dtype: torch.dtype, count: int, transposed: bool
) -> None:
    weight = some_weight(dtype)
    weight = weight.t().contiguous().t() if transposed else weight
    before, indices = weight.clone(), some_indices(count, index_dtype)
    delta = torch.randn(count, generator=torch.Generator().manual_seed(1)) * 1e-3
    base = gather_entries(weight, indices)
    assert base.dtype == dtype
    write_delta(weight, indices, base, delta)
    expected = before.clone()
    for place, index in enumerate(indices.tolist()):
        row, column = divmod(index, COLUMNS)
        assert torch.equal(base[place], before[row, column])
        # float64 holds the exact sum; float32 is the accumulator for all narrower weights.
        exact = before[row, column].double() + delta[place].double()
        expected[row, column] = exact if dtype == torch.float64 else exact.float().to(dtype)
    assert torch.equal(weight, expected)


def test_one_rounding_not_two() -> None:
    # 1 + 2^-8 is halfway between bfloat16 neighbours; the delta lies just above. Rounded to bfloat16 before the sum,
    # the delta loses that last bit and the tie goes down to 1.
    weight = torch.ones(1, dtype=torch.bfloat16)
    indices, delta = torch.tensor([0]), torch.tensor([2.0**-8 + 2.0**-18])
    write_delta(weight, indices, weight.clone(), delta)
    assert weight.item() == 1 + 2.0**-7


@pytest.mark.parametrize("dtype", DTYPES)
def test_rewriting_and_restoring_leaves_every_bit_as_it_was(dtype: torch.dtype) -> None:
    weight, indices = some_weight(dtype), some_indices(150)
    before = weight.clone()
    base = gather_entries(weight, indices)
    generator = torch.Generator().manual_seed(2)
    for _ in range(50):
        write_delta(weight, indices, base, torch.randn(150, generator=generator))
    assert not torch.equal(weight, before)
    restore_entries(weight, indices, base)
    assert torch.equal(weight, before)


def test_gathered_values_are_a_copy() -> None:
    weight, indices = some_weight(torch.float32), torch.arange(ROWS * COLUMNS)
    base = gather_entries(weight, indices)
    kept = base.clone()
    weight.zero_()
    assert torch.equal(base, kept)


def test_a_parameter_is_written_in_place_without_autograd() -> None:
    weight = torch.nn.Parameter(torch.zeros(4, 4))
    address, version = weight.data_ptr(), weight._version
    write_delta(weight, torch.tensor([5]), torch.zeros(1), torch.ones(1, requires_grad=True))
    assert weight.data_ptr() == address and weight[1, 1].item() == 1.0 and weight.grad_fn is None
    assert weight._version > version  # autograd can see that a saved weight was written


@pytest.mark.parametrize("shape", [(), (7,), (3, 5, 7)])
def test_any_number_of_dimensions(shape: tuple[int, ...]) -> None:
    weight = torch.zeros(shape)
    last = weight.numel() - 1
    write_delta(weight, torch.tensor([last]), torch.tensor([2.0]), torch.tensor([0.5]))
    assert weight.reshape(-1)[last].item() == 2.5 and weight.sum().item() == 2.5


def test_indices_past_two_to_the_31() -> None:
    rows, columns = 2**20, 2**13
    by_row = torch.arange(rows).view(-1, 1).expand(rows, columns)  # 2^33 entries, 2^20 in memory
    by_column = torch.arange(columns).expand(rows, columns)
    indices = torch.tensor([0, 2**31 - 1, 2**31, 2**31 + 5, 2**32 + 8192 + 3, 2**33 - 1])
    assert gather_entries(by_row, indices).tolist() == [i // columns for i in indices.tolist()]
    assert gather_entries(by_column, indices).tolist() == [i % columns for i in indices.tolist()]


def test_values_of_another_dtype_are_refused() -> None:
    with pytest.raises(ValueError, match=r"torch\.float32.*torch\.bfloat16"):
        restore_entries(torch.zeros(3, dtype=torch.bfloat16), torch.tensor([1]), torch.zeros(1))
    with pytest.raises(ValueError, match=r"torch\.float32.*torch\.bfloat16"):
        none = torch.empty(0, dtype=torch.int64)
        swap_delta(torch.zeros(3, dtype=torch.bfloat16), torch.tensor([1]), torch.zeros(1), none, torch.empty(0))


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(params=["definition", "blocks", "triton"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`write_delta` and `swap_delta` as plain torch, in blocks as on a CPU, and as Triton kernels."""
    if request.param == "definition":
        return write_delta_definition, swap_delta_definition
    if request.param == "blocks":
        monkeypatch.setattr("xlt_kernels.delta_write._CPU_BLOCK", 7)
        return write_delta, swap_delta
    pytest.importorskip("triton", reason="Triton is not installed")
    from xlt_kernels.delta_write_triton import launch_swap_delta, launch_write_delta

    return launch_write_delta, launch_swap_delta


def assert_same_bits(found: Tensor, expected: Tensor) -> None:
    """Compares bits, except for bfloat16 in Triton's interpreter, which truncates where a GPU rounds to nearest."""
    if found.dtype == torch.bfloat16 and DEVICE == "cpu":
        # From a number rounded up to the one below: at most eps of it, and equal inputs have no other difference.
        torch.testing.assert_close(found, expected, rtol=summation_tolerance(1, torch.bfloat16), atol=0)
    else:
        assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [0, 1, 100, ROWS * COLUMNS])
@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64])
def test_both_ways_write_the_same_bits(way: Any, dtype: torch.dtype, count: int, index_dtype: torch.dtype) -> None:
    weight, indices = some_weight(dtype).to(DEVICE), some_indices(count, index_dtype).to(DEVICE)
    delta = (torch.randn(count, generator=torch.Generator().manual_seed(1)) * 1e-3).to(DEVICE)
    expected = weight.clone()
    write_delta_definition(expected, indices, gather_entries(weight, indices), delta)
    way[0](weight, indices, gather_entries(weight, indices), delta)
    assert_same_bits(weight, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("old_count", "new_count"), [(0, 0), (0, 50), (50, 0), (100, 90), (1, 369), (369, 369), (2000, 3000)]
)
def test_after_a_swap_the_weight_is_the_base_plus_the_new_delta(
    way: Any, dtype: torch.dtype, old_count: int, new_count: int
) -> None:
    """The cases include deltas that overlap partly, wholly and not at all."""
    rows, columns = (ROWS, COLUMNS) if old_count < 1000 else (90, COLUMNS)
    base = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)).to(DEVICE, dtype)
    generator = torch.Generator().manual_seed(old_count + new_count)
    orders = (torch.randperm(rows * columns, generator=generator) for _ in range(2))
    old, new = (order[:n].sort().values.to(DEVICE) for order, n in zip(orders, (old_count, new_count), strict=True))
    deltas = [torch.randn(n, generator=generator).to(DEVICE) for n in (old_count, new_count)]
    weight, expected = base.clone(), base.clone()
    write_delta_definition(weight, old, gather_entries(base, old), deltas[0])
    write_delta_definition(expected, new, gather_entries(base, new), deltas[1])
    new_base = way[1](weight, old, gather_entries(base, old), new, deltas[1])
    assert_same_bits(weight, expected)
    assert torch.equal(new_base, gather_entries(base, new))
    restore_entries(weight, new, new_base)
    assert torch.equal(weight, base)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("transposed", [False, True])
def test_a_delta_is_added_in_one_pass(dtype: torch.dtype, transposed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xlt_kernels.delta_write._CPU_BLOCK", 7)
    weight, indices = some_weight(dtype), some_indices(100, torch.int32)
    weight = weight.t().contiguous().t() if transposed else weight
    expected, delta = weight.clone(), torch.randn(100, generator=torch.Generator().manual_seed(1))
    write_delta_definition(expected, indices, gather_entries(weight, indices), delta)
    before = gather_entries(weight, indices)
    assert torch.equal(add_delta(weight, indices, delta), before)
    assert torch.equal(weight, expected)


@contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_threads_write_the_bits_of_one(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    base = torch.randn(400, 500, generator=generator).to(dtype)
    old, new = (torch.randperm(base.numel(), generator=generator)[:100_000].sort().values for _ in range(2))
    deltas = [torch.randn(100_000, generator=generator) for _ in range(2)]
    found = []
    for number in (1, 2):
        weight = base.clone()
        with threads(number):
            new_base = swap_delta(weight, old, add_delta(weight, old, deltas[0]), new, deltas[1])
            written = weight.clone()
            restore_entries(weight, new, new_base)
        assert torch.equal(weight, base)
        found.append((written, new_base))
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


def test_a_swap_that_fails_in_a_block_leaves_no_entry_of_the_new_delta(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xlt_kernels.delta_write._CPU_BLOCK", 7)
    base, old, new = some_weight(torch.float32), some_indices(50), some_indices(60)
    weight = base.clone()
    old_base = add_delta(weight, old, torch.ones(50))
    real, calls = torch.index_select, []

    def failing(*arguments: Any, **named: Any) -> Tensor:
        calls.append(1)
        if len(calls) == 4:
            raise MemoryError
        return real(*arguments, **named)

    monkeypatch.setattr("torch.index_select", failing)
    with pytest.raises(MemoryError):
        swap_delta(weight, old, old_base, new, torch.ones(60))
    changed = set((weight != base).flatten().nonzero().flatten().tolist())
    assert changed < set(old.tolist()), "what is left is of the old delta"
    restore_entries(weight, old, old_base)
    assert torch.equal(weight, base)
