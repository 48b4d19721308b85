from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from xlt_kernels.delta_write import gather_entries, write_delta
from xlt_kernels.embedding_rows import rows_gradient, rows_gradient_definition, sparse_embedding
from xlt_kernels.sparse_linear import sparse_linear
from xlt_kernels.sparse_pattern import SparsePattern

from tests.tolerance import summation_tolerance

ROWS, COLUMNS = 31, 7


def make_pattern(density: float, rows: int = ROWS, columns: int = COLUMNS) -> SparsePattern:
    order = torch.randperm(rows * columns, generator=torch.Generator().manual_seed(0))
    return SparsePattern.from_indices(order[: round(rows * columns * density)].sort().values, rows, columns)


def randn(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def some_ids(*shape: int) -> Tensor:
    return torch.randint(ROWS // 2, shape, generator=torch.Generator().manual_seed(1))


def naive(ids: Tensor, dy: Tensor, indices: Tensor, columns: int, padding_idx: int | None = None) -> Tensor:
    """Float64, entry by entry."""
    flat, rows = ids.reshape(-1).tolist(), dy.reshape(-1, dy.shape[-1]).double()
    out = torch.zeros(len(indices), dtype=torch.float64)
    for place, index in enumerate(indices.tolist()):
        row, column = divmod(index, columns)
        out[place] = sum(rows[t, column].item() for t, i in enumerate(flat) if i == row and i != padding_idx)
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("density", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("padding_idx", [None, 0, 3])
def test_the_gradient_equals_sums_in_float64(dtype: torch.dtype, density: float, padding_idx: int | None) -> None:
    pattern, ids = make_pattern(density), some_ids(57)
    dy = randn(57, COLUMNS, seed=2, dtype=dtype)
    expected = naive(ids, dy, pattern.indices, COLUMNS, padding_idx)
    most = int(ids.bincount().max())  # terms of an entry: the tokens that are that row
    tolerance = summation_tolerance(most, torch.promote_types(dtype, torch.float32)) * float(dy.abs().max())
    for found in (
        rows_gradient(ids, dy, pattern, padding_idx),
        rows_gradient(ids.int(), dy, pattern, padding_idx),
        rows_gradient_definition(ids, dy, pattern, padding_idx),
    ):
        assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("density", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("padding_idx", [None, 0, 3])
@pytest.mark.parametrize(("tokens", "columns"), [(57, COLUMNS), (40, 150), (0, COLUMNS)])
def test_the_triton_kernel_sums_the_same_gradient(
    dtype: torch.dtype, density: float, padding_idx: int | None, tokens: int, columns: int
) -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    from xlt_kernels.embedding_rows_triton import launch_rows_gradient

    device = "cuda" if torch.cuda.is_available() else "cpu"
    pattern, ids = make_pattern(density, columns=columns), some_ids(tokens)
    dy = randn(tokens, columns, seed=2, dtype=dtype)
    found = launch_rows_gradient(ids.to(device), dy.to(device), pattern.to(device), padding_idx)
    expected = naive(ids, dy, pattern.indices, columns, padding_idx)
    assert found.dtype == torch.float32
    # An entry has as many terms as there are tokens of its row.
    tolerance = summation_tolerance(int(ids.bincount(minlength=1).max()), torch.float32)
    largest = float(dy.abs().max()) if tokens else 0.0
    torch.testing.assert_close(found.double().cpu(), expected, rtol=tolerance, atol=tolerance * largest)


@pytest.mark.parametrize("padding_idx", [None, 2, -1])
@pytest.mark.parametrize("shape", [(5,), (3, 4), (0,)])
def test_values_and_gradients_equal_a_dense_embedding(shape: tuple[int, ...], padding_idx: int | None) -> None:
    pattern, ids = make_pattern(0.3), some_ids(*shape)
    if ids.numel():
        ids.view(-1)[0] = ROWS - 1 if padding_idx == -1 else 2
    base = randn(ROWS, COLUMNS, seed=3, dtype=torch.float64)
    delta = randn(len(pattern), seed=4, dtype=torch.float64).requires_grad_()
    dy = randn(*shape, COLUMNS, seed=5, dtype=torch.float64)
    scattered = base.reshape(-1).index_add(0, pattern.indices.long(), delta).view(ROWS, COLUMNS)
    expected = nn.functional.embedding(ids, scattered, padding_idx)
    (wanted,) = torch.autograd.grad(expected, delta, dy)
    weight = base.clone()
    write_delta(weight, pattern.indices, gather_entries(base, pattern.indices), delta)
    y = sparse_embedding(ids, weight, delta, pattern, padding_idx)
    (found,) = torch.autograd.grad(y, delta, dy)
    assert torch.equal(y, expected)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_untouched_rows_get_exactly_zero() -> None:
    pattern = make_pattern(1.0)
    found = rows_gradient(torch.tensor([4, 9, 4]), torch.ones(3, COLUMNS), pattern).view(ROWS, COLUMNS)
    expected = torch.zeros(ROWS, COLUMNS)
    expected[4], expected[9] = 2.0, 1.0
    assert torch.equal(found, expected)


class LargestTensor(TorchDispatchMode):
    entries = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                self.entries = max(self.entries, tensor.numel())
        return out


def test_no_tensor_of_the_weights_size_is_made() -> None:
    pattern = make_pattern(0.05, 2000, 8)
    with LargestTensor() as largest:
        rows_gradient(some_ids(20), randn(20, 8, seed=2), pattern)
    assert largest.entries < 2001  # crow itself is the largest


def test_accumulation_autocast_and_checkpointing() -> None:
    pattern, ids = make_pattern(0.3), some_ids(4, 6)
    weight, delta = randn(ROWS, COLUMNS, seed=3), torch.zeros(len(pattern), requires_grad=True)
    torch.manual_seed(0)
    linear = nn.Linear(COLUMNS, COLUMNS)

    def run(ids: Tensor) -> Tensor:
        return linear(sparse_embedding(ids, weight, delta, pattern)).tanh()

    (whole,) = torch.autograd.grad(run(ids).sum(), delta)
    for row in ids:
        run(row).sum().backward()
    tolerance = summation_tolerance(ids.numel(), torch.float32)  # no row has more terms than there are tokens
    torch.testing.assert_close(delta.grad, whole, rtol=tolerance, atol=tolerance * float(whole.abs().max()))
    delta.grad = None
    out = checkpoint(run, ids, use_reentrant=False)
    assert isinstance(out, Tensor)
    out.sum().backward()
    assert torch.equal(delta.grad, whole)
    delta.grad = None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        run(ids).sum().backward()
    assert delta.grad.dtype == torch.float32
    # The linear layer ran in bfloat16: its inputs, output and gradient were rounded, for each token of a row.
    tolerance = summation_tolerance(3, torch.bfloat16) * float(whole.abs().max())
    torch.testing.assert_close(delta.grad, whole, rtol=0, atol=tolerance)


def test_bfloat16_weights_still_accumulate_in_float32() -> None:
    # 257 ones: bfloat16 would stop at 256.
    pattern = make_pattern(1.0)
    weight = torch.zeros(ROWS, COLUMNS, dtype=torch.bfloat16)
    delta = torch.zeros(len(pattern), requires_grad=True)
    y = sparse_embedding(torch.full((257,), 3), weight, delta, pattern)
    y.backward(torch.ones_like(y))
    assert delta.grad is not None and delta.grad.dtype == torch.float32
    assert delta.grad.view(ROWS, COLUMNS)[3].tolist() == [257.0] * COLUMNS


def test_a_tied_matrix_gets_the_gradients_of_both_ends() -> None:
    pattern, ids = make_pattern(0.3), some_ids(9)
    base = randn(ROWS, COLUMNS, seed=3, dtype=torch.float64)
    dense = base.clone().requires_grad_()
    nn.functional.linear(nn.functional.embedding(ids, dense), dense).square().sum().backward()
    assert dense.grad is not None
    delta = torch.zeros(len(pattern), dtype=torch.float64, requires_grad=True)
    sparse_linear(sparse_embedding(ids, base, delta, pattern), base, None, delta, pattern).square().sum().backward()
    torch.testing.assert_close(delta.grad, dense.grad.view(-1)[pattern.indices.long()], rtol=1e-10, atol=1e-10)


def test_entries_past_two_to_the_31() -> None:
    rows, columns = 2**20, 2**13
    indices = torch.tensor([5, 2**31 - 1, 2**31, 2**31 + 8192 * 7 + 3, 2**33 - 1])
    pattern = SparsePattern.from_indices(indices, rows, columns)
    ids = torch.tensor([0, rows - 1, 2**18 + 7, 2**18, 2**18, 1])
    dy = randn(6, columns, seed=1)
    tolerance = summation_tolerance(2, torch.float32) * float(dy.abs().max())  # row 2**18 has two tokens
    torch.testing.assert_close(
        rows_gradient(ids, dy, pattern).double(), naive(ids, dy, indices, columns), rtol=0, atol=tolerance
    )
    assert rows_gradient(ids, dy, pattern).count_nonzero() == 4


def test_tensors_that_do_not_fit_the_pattern_are_refused() -> None:
    pattern = make_pattern(0.3)
    with pytest.raises(ValueError, match="do not fit"):
        sparse_embedding(some_ids(3), torch.zeros(COLUMNS, ROWS), torch.zeros(len(pattern)), pattern)
