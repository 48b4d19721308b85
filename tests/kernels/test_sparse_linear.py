from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from xlt_kernels import sparse_linear as module
from xlt_kernels import sparse_linear_costs as costs
from xlt_kernels.delta_write import gather_entries, write_delta
from xlt_kernels.sparse_linear import sampled_gradient, sampled_gradient_definition, sparse_linear
from xlt_kernels.sparse_pattern import SparsePattern

from tests.tolerance import summation_tolerance

SHAPES = [(1, 1, 1), (9, 41, 17), (33, 7, 64), (5, 130, 3)]  # tokens, rows, columns
DENSITIES = [0.0, 0.01, 0.1, 0.5, 1.0]


def make_pattern(rows: int, columns: int, density: float, seed: int = 0) -> SparsePattern:
    order = torch.randperm(rows * columns, generator=torch.Generator().manual_seed(seed))
    count = round(rows * columns * density)
    return SparsePattern.from_indices(order[:count].sort().values, rows, columns)


def randn(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def naive(dy: Tensor, x: Tensor, indices: Tensor, columns: int) -> Tensor:
    """Float64, entry by entry."""
    entries = [dy[:, i // columns].double() @ x[:, i % columns].double() for i in indices.tolist()]
    return torch.stack(entries) if entries else torch.empty(0, dtype=torch.float64)


@pytest.fixture(params=["chosen", "slab only"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "slab only":
        monkeypatch.setattr(module, "_has_dots", lambda dtype: False)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize(("tokens", "rows", "columns"), SHAPES)
def test_the_gradient_at_the_entries_equals_dot_products_in_float64(
    dtype: torch.dtype, density: float, tokens: int, rows: int, columns: int
) -> None:
    dy, x = randn(tokens, rows, seed=1, dtype=dtype), randn(tokens, columns, seed=2, dtype=dtype)
    pattern = make_pattern(rows, columns, density)
    expected = naive(dy, x, pattern.indices, columns)
    found, defined = sampled_gradient(dy, x, pattern), sampled_gradient_definition(dy, x, pattern)
    assert found.dtype == defined.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    # Exact products of 16-bit operands, summed over the tokens in float32; a bfloat16 slab is then rounded.
    tolerance = summation_tolerance(tokens, found.dtype) * float(dy.abs().max() * x.abs().max())
    rounded = summation_tolerance(1, dtype) if dtype == torch.bfloat16 else tolerance
    torch.testing.assert_close(found.double(), expected, rtol=rounded, atol=tolerance)
    torch.testing.assert_close(defined.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("tokens", "rows", "columns", "density"),
    [(*shape, density) for shape in SHAPES for density in DENSITIES]
    # Interpreted, an entry takes a tenth of a millisecond.
    + [pytest.param(70, 140, 200, d, marks=pytest.mark.slow if d >= 0.5 else ()) for d in DENSITIES],
)
def test_the_triton_kernel_samples_the_same_gradient(
    dtype: torch.dtype, density: float, tokens: int, rows: int, columns: int
) -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    from xlt_kernels import sparse_linear_triton

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dy, x = randn(tokens, rows, seed=1, dtype=dtype), randn(tokens, columns, seed=2, dtype=dtype)
    pattern = make_pattern(rows, columns, density)
    found = sparse_linear_triton.launch_dots(dy.to(device), x.to(device), pattern.to(device))
    expected = naive(dy, x, pattern.indices, columns)
    assert found.dtype == torch.float32
    tolerance = summation_tolerance(tokens, torch.float32) * float(dy.abs().max() * x.abs().max())
    torch.testing.assert_close(found.double().cpu(), expected, rtol=tolerance, atol=tolerance)


def test_no_program_writes_what_another_writes() -> None:
    """Run in the opposite order, the programs leave the same: none reaches into the next row."""
    pytest.importorskip("triton", reason="Triton is not installed")
    from xlt_kernels.sparse_linear_triton import launch_dots

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dy, x = randn(20, 9, seed=1).to(device), randn(20, 30, seed=2).to(device)
    pattern = make_pattern(9, 30, 0.7).to(device)
    expected = launch_dots(dy, x, pattern)
    pattern._chunks = {most: starts.flip(0) for most, starts in pattern._chunks.items()}
    assert torch.equal(launch_dots(dy, x, pattern), expected)


def test_on_a_gpu_dot_products_are_chosen_at_a_low_density_and_dense_products_at_a_high_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    from xlt_kernels import sparse_linear_triton

    chosen: list[int] = []

    def counted(dy: Tensor, x: Tensor, pattern: SparsePattern) -> Tensor:
        chosen.append(len(pattern))
        return sampled_gradient_definition(dy, x, pattern)

    monkeypatch.setattr(sparse_linear_triton, "launch_dots", counted)
    monkeypatch.setattr(module, "uses_triton", lambda tensor: True)
    rows, columns, tokens = 700, 600, 8
    dy, x = randn(tokens, rows, seed=1), randn(tokens, columns, seed=2)
    for density in (0.0025, 0.5):
        pattern = make_pattern(rows, columns, density)
        expected = sampled_gradient_definition(dy.double(), x.double(), pattern)
        tolerance = summation_tolerance(tokens, torch.float32) * float(dy.abs().max() * x.abs().max())
        torch.testing.assert_close(sampled_gradient(dy, x, pattern).double(), expected, rtol=0, atol=tolerance)
    assert chosen == [1050]


def test_the_costs_are_those_counted_by_hand() -> None:
    """A weight of 100 x 200 with 40 entries, 10 tokens of 2 bytes."""
    gpu = costs.Gpu(half_operations=1000, float_operations=100, memory_bytes=100, cache_bytes=10)
    # Copies read and write 300 x 10 numbers; a row of 10 numbers for each entry, each of 40 rows, and 40 / 16 chunks.
    assert costs.dots_seconds(gpu, 40, 100, 200, 10, 2) == 12_000 / 100 + (40 + 40 + 2) * 20 / 10
    assert costs.slab_seconds(gpu, 40, 100, 200, 10, 2) == 400_000 / 1000 + (40_000 + 1280) / 10
    assert costs.slab_seconds(gpu, 40, 100, 200, 10, 4) == 400_000 / 100 + (80_000 + 1280) / 10
    assert costs.prefers_dots(gpu, 40, 100, 200, 10, 2, 2)


@pytest.mark.parametrize(("gpu", "half", "single"), [(costs.H200, 0.0055, 0.051), (costs.A100, 0.0133, 0.109)])
def test_the_ways_cross_where_the_docstring_says(gpu: costs.Gpu, half: float, single: float) -> None:
    for bytes_each, density in ((2, half), (4, single)):
        for share, expected in ((0.98, True), (1.02, False)):
            entries = round(share * density * 4096 * 4096)
            assert costs.prefers_dots(gpu, entries, 4096, 4096, 4096, bytes_each, bytes_each) == expected


def test_all_blocks_use_one_slab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TILE_ENTRIES", 64 * 50)
    pattern = make_pattern(300, 50, 0.5)
    slabs: list[tuple[int, int]] = []
    product = torch.mm

    def noted(*arguments: Tensor, out: Tensor) -> Tensor:
        slabs.append((out.data_ptr(), len(out)))
        return product(*arguments, out=out)

    monkeypatch.setattr(torch, "mm", noted)
    sampled_gradient(randn(20, 300, seed=3), randn(20, 50, seed=4), pattern)
    assert slabs == [(slabs[0][0], height) for height in (64, 64, 64, 64, 44)]


def test_chunks_hold_entries_of_one_row_and_places_those_of_a_block() -> None:
    """Rows of 5, 0, 2 and 1 entries, in chunks of 2."""
    pattern = SparsePattern.from_indices(torch.tensor([0, 1, 2, 3, 4, 11, 13, 19]), 4, 5)
    assert pattern.chunks(2).tolist() == [0, 2, 4, 5, 7]
    assert pattern.places(3) == [0, 7, 8] and pattern.places(2) == [0, 5, 8]


def test_blocks_choose_their_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TILE_ENTRIES", 64 * 400)
    rows, columns, tokens = 300, 400, 20
    dense_rows = torch.arange(70 * columns, 90 * columns)  # in the second block of 64 rows, 31% of it
    rest = torch.arange(130 * columns, rows * columns, 97)  # the first block has none
    pattern = SparsePattern.from_indices(torch.cat([dense_rows, rest]), rows, columns)
    calls = []
    product = module._dots

    def counted(dy: Tensor, *args: Tensor) -> Tensor:
        calls.append(len(dy))
        return product(dy, *args)

    monkeypatch.setattr(module, "_dots", counted)
    dy, x = randn(tokens, rows, seed=3), randn(tokens, columns, seed=4)
    found = sampled_gradient(dy, x, pattern)
    assert calls == [64, 64, 44]
    tolerance = summation_tolerance(tokens, torch.float32) * float(dy.abs().max() * x.abs().max())
    torch.testing.assert_close(found.double(), naive(dy, x, pattern.indices, columns), rtol=tolerance, atol=tolerance)


class LargestTensor(TorchDispatchMode):
    """Remembers the number of entries of the largest tensor that an operation returned."""

    entries = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor) and tensor.layout == torch.strided:
                self.entries = max(self.entries, tensor.numel())
        return out


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("density", [0.01, 0.5])
def test_no_tensor_of_the_weights_size_is_made(monkeypatch: pytest.MonkeyPatch, density: float) -> None:
    monkeypatch.setattr(module, "_TILE_ENTRIES", 64 * 100)
    pattern = make_pattern(1000, 100, density)
    dy, x = randn(8, 1000, seed=1), randn(8, 100, seed=2)
    with LargestTensor() as largest:
        sampled_gradient(dy, x, pattern)
    assert len(pattern) <= largest.entries < 1000 * 100
    with LargestTensor() as largest:
        sampled_gradient_definition(dy, x, pattern)
    assert largest.entries == 1000 * 100


def layer(rows: int, columns: int, density: float, dtype: torch.dtype = torch.float32) -> tuple[Any, ...]:
    """Base weight, bias, pattern, delta, and the weight with the delta written in."""
    base, bias = randn(rows, columns, seed=5, dtype=dtype), randn(rows, seed=6, dtype=dtype)
    pattern = make_pattern(rows, columns, density)
    delta = randn(len(pattern), seed=7, dtype=torch.promote_types(dtype, torch.float32)) * 0.1
    weight = base.clone()
    write_delta(weight, pattern.indices, gather_entries(base, pattern.indices), delta)
    return base, bias, pattern, delta.requires_grad_(), weight


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("lead", [(), (6,), (2, 3), (2, 1, 3)])
def test_values_and_gradients_equal_a_dense_layer_with_scattered_delta(density: float, lead: tuple[int, ...]) -> None:
    rows, columns = 41, 17
    base, bias, pattern, delta, weight = layer(rows, columns, density, torch.float64)
    x, dy = randn(*lead, columns, seed=8, dtype=torch.float64), randn(*lead, rows, seed=9, dtype=torch.float64)
    leaves = [t.detach().clone().requires_grad_() for t in (x, bias, delta)]
    scattered = base.reshape(-1).index_add(0, pattern.indices.long(), leaves[2]).view(rows, columns)
    expected_y = nn.functional.linear(leaves[0], scattered, leaves[1])
    expected = torch.autograd.grad(expected_y, leaves, dy)
    own = [t.detach().clone().requires_grad_() for t in (x, bias, delta)]
    y = sparse_linear(own[0], weight, own[1], own[2], pattern)
    torch.testing.assert_close(y, expected_y, rtol=1e-12, atol=1e-12)
    for found, wanted in zip(torch.autograd.grad(y, own, dy), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("lead", [(), (6,), (2, 3)])
def test_a_transposed_layer_equals_its_transpose(density: float, lead: tuple[int, ...]) -> None:
    rows, columns = 41, 17
    base, _, pattern, delta, weight = layer(rows, columns, density, torch.float64)
    bias = randn(columns, seed=7, dtype=torch.float64)
    x, dy = randn(*lead, rows, seed=8, dtype=torch.float64), randn(*lead, columns, seed=9, dtype=torch.float64)
    leaves = [t.detach().clone().requires_grad_() for t in (x, bias, delta)]
    scattered = base.reshape(-1).index_add(0, pattern.indices.long(), leaves[2]).view(rows, columns)
    expected_y = leaves[0] @ scattered + leaves[1]
    expected = torch.autograd.grad(expected_y, leaves, dy)
    for receives in (False, True):
        own = [t.detach().clone().requires_grad_() for t in (x, bias, delta)]
        received: list[Tensor] = []
        receive = (lambda whole, kept=received: kept.append(whole.clone())) if receives else None
        y = sparse_linear(own[0], weight, own[1], own[2], pattern, receive, True)
        torch.testing.assert_close(y, expected_y, rtol=1e-12, atol=1e-12)
        for found, wanted in zip(torch.autograd.grad(y, own, dy), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
        if receives:
            wanted = x.reshape(-1, rows).t() @ dy.reshape(-1, columns)
            torch.testing.assert_close(received[0], wanted, rtol=1e-12, atol=1e-12)


def test_gradcheck_through_the_written_weight() -> None:
    base, bias, pattern, delta, _ = layer(5, 4, 0.4, torch.float64)

    def run(x: Tensor, bias: Tensor, delta: Tensor) -> Tensor:
        weight = base.clone()
        write_delta(weight, pattern.indices, gather_entries(base, pattern.indices), delta)
        return sparse_linear(x, weight, bias, delta, pattern).tanh()

    x = randn(3, 4, seed=1, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(run, (x, bias.requires_grad_(), delta))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("with_bias", [False, True])
def test_the_output_has_the_bits_of_the_frozen_layer(dtype: torch.dtype, with_bias: bool) -> None:
    _, bias, pattern, delta, weight = layer(41, 17, 0.1, dtype)
    x = randn(2, 9, 17, seed=8, dtype=dtype)
    bias = bias if with_bias else None
    assert torch.equal(sparse_linear(x, weight, bias, delta, pattern), nn.functional.linear(x, weight, bias))


def test_gradients_accumulate_over_micro_batches() -> None:
    _, bias, pattern, delta, weight = layer(41, 17, 0.1, torch.float64)
    x = randn(8, 17, seed=8, dtype=torch.float64)
    sparse_linear(x, weight, bias, delta, pattern).square().sum().backward()
    whole, delta.grad = delta.grad, None
    for part in x.split(3):
        sparse_linear(part, weight, bias, delta, pattern).square().sum().backward()
    # The same sum of 8 tokens in another order, each term itself a sum over 17 columns.
    tolerance = summation_tolerance(8 + 17, torch.float64)
    torch.testing.assert_close(delta.grad, whole, rtol=tolerance, atol=tolerance * float(whole.abs().max()))


def test_a_delta_used_twice_gets_both_gradients() -> None:
    _, bias, pattern, delta, weight = layer(17, 17, 0.2, torch.float64)
    x = randn(4, 17, seed=8, dtype=torch.float64)
    hidden = sparse_linear(x, weight, bias, delta, pattern)
    y = sparse_linear(hidden, weight, bias, delta, pattern)
    (found,) = torch.autograd.grad(y.sum(), delta)
    dy = torch.ones_like(y)
    second = sampled_gradient(dy, hidden.detach(), pattern)
    torch.testing.assert_close(found, second + sampled_gradient(dy @ weight, x, pattern))


def test_autocast_computes_in_bfloat16_and_accumulates_in_float32() -> None:
    rows, columns, tokens = 400, 600, 300  # large enough for dot products to be chosen
    _, bias, pattern, delta, weight = layer(rows, columns, 0.01)
    bias.requires_grad_()
    x = randn(tokens, columns, seed=8).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = sparse_linear(x, weight, bias, delta, pattern)
        assert torch.equal(y, nn.functional.linear(x, weight, bias))
    assert y.dtype == torch.bfloat16
    dy = randn(tokens, rows, seed=9).bfloat16()
    dx, dbias, ddelta = torch.autograd.grad(y, (x, bias, delta), dy)
    assert (dx.dtype, dbias.dtype, ddelta.dtype) == (torch.float32,) * 3
    # Operands are bfloat16 values, their products exact, the sums over the tokens in float32.
    expected = naive(dy, x.detach().bfloat16(), pattern.indices, columns)
    tolerance = summation_tolerance(tokens, torch.float32)
    torch.testing.assert_close(ddelta.double(), expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))
    expected = dy.double().sum(0)
    torch.testing.assert_close(dbias.double(), expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))
    # dx is a bfloat16 product: rounded once, and where a processor adds in blocks perhaps once more.
    expected, tolerance = dy.double() @ weight.bfloat16().double(), summation_tolerance(1, torch.bfloat16)
    torch.testing.assert_close(dx.double(), expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_changes_no_bit(reentrant: bool) -> None:
    _, bias, pattern, delta, weight = layer(17, 17, 0.2)
    x = randn(4, 17, seed=8).requires_grad_()

    def run(x: Tensor) -> Tensor:
        return sparse_linear(x, weight, bias, delta, pattern).tanh()

    expected = torch.autograd.grad(run(run(x)).sum(), (x, delta))
    x.grad = delta.grad = None
    y = checkpoint(run, checkpoint(run, x, use_reentrant=reentrant), use_reentrant=reentrant)
    y.sum().backward()
    assert torch.equal(x.grad, expected[0])
    # Reentrant adds the two gradients in another order; each is a sum over 4 tokens.
    tolerance = summation_tolerance(2 * 4, torch.float32) * float(expected[1].abs().max())
    torch.testing.assert_close(delta.grad, expected[1], rtol=0, atol=tolerance)


def test_only_what_is_asked_for_is_computed_and_saved() -> None:
    _, bias, pattern, delta, weight = layer(41, 17, 0.1)
    x = randn(3, 17, seed=8)
    y = sparse_linear(x, weight, bias, delta, pattern)
    assert [t is None for t in y.grad_fn.saved_tensors] == [False, True]  # type: ignore[union-attr]
    y.sum().backward()
    assert delta.grad is not None and bias.grad is None and weight.grad is None
    frozen = sparse_linear(x.requires_grad_(), weight, bias, delta.detach(), pattern)
    assert [t is None for t in frozen.grad_fn.saved_tensors] == [True, False]  # type: ignore[union-attr]
    trainable = weight.clone().requires_grad_()
    sparse_linear(x, trainable, bias, delta, pattern).sum().backward()
    assert trainable.grad is None


def test_writing_the_weight_before_its_backward_is_reported() -> None:
    _, bias, pattern, delta, weight = layer(41, 17, 0.1)
    y = sparse_linear(randn(3, 17, seed=8).requires_grad_(), weight, bias, delta, pattern)
    write_delta(weight, pattern.indices, gather_entries(weight, pattern.indices), delta)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_two_runs_give_the_same_bits() -> None:
    pattern = make_pattern(200, 300, 0.05)
    dy, x = randn(500, 200, seed=1), randn(500, 300, seed=2)
    assert torch.equal(sampled_gradient(dy, x, pattern), sampled_gradient(dy.clone(), x.clone(), pattern))


def test_no_tokens_give_a_zero_gradient() -> None:
    _, bias, pattern, delta, weight = layer(41, 17, 0.1)
    sparse_linear(randn(0, 17, seed=0), weight, bias, delta, pattern).sum().backward()
    assert torch.equal(delta.grad, torch.zeros(len(pattern)))


@pytest.mark.usefixtures("way")
def test_entries_past_two_to_the_31() -> None:
    rows, columns = 2**20, 2**13
    indices = torch.tensor([5, 2**31 - 1, 2**31, 2**31 + 8192 * 7 + 3, 2**32 + 1, 2**33 - 1])
    pattern = SparsePattern.from_indices(indices, rows, columns)
    assert pattern.indices.dtype == torch.int64 and pattern.col.dtype == torch.int32
    dy, x = randn(2, rows, seed=1), randn(2, columns, seed=2)
    tolerance = summation_tolerance(2, torch.float32) * float(dy.abs().max() * x.abs().max())  # two tokens
    torch.testing.assert_close(
        sampled_gradient(dy, x, pattern).double(), naive(dy, x, indices, columns), rtol=0, atol=tolerance
    )


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_a_pattern_holds_rows_and_columns_of_its_indices(dtype: torch.dtype) -> None:
    indices = torch.tensor([0, 2, 5, 6, 11], dtype=dtype)
    pattern = SparsePattern.from_indices(indices, 4, 3)
    assert pattern.crow.tolist() == [0, 2, 3, 4, 5]
    assert pattern.col.tolist() == [0, 2, 2, 0, 2]
    assert pattern.indices.tolist() == indices.tolist()
    assert {t.dtype for t in (pattern.crow, pattern.col, pattern.indices)} == {torch.int32}
    moved = pattern.to("cpu")
    assert len(moved) == 5 and torch.equal(moved.col, pattern.col) and repr(moved) == "SparsePattern(5 of 4 x 3)"


@pytest.mark.parametrize("rows, columns", [(5, 7), (1, 9), (6, 1)])
def test_a_pattern_without_indices_or_columns_makes_the_same_ones(rows: int, columns: int) -> None:
    draw = torch.Generator().manual_seed(rows)
    indices = (torch.rand(rows * columns, generator=draw) < 0.4).nonzero().flatten()
    whole = SparsePattern.from_indices(indices, rows, columns)
    bare = whole.without_indices()
    assert torch.equal(bare.indices, whole.indices) and bare.indices.dtype == whole.indices.dtype
    assert len(bare) == len(whole) and torch.equal(bare.to("cpu").indices, whole.indices)
    height = 2
    places = whole.places(height)
    for number, top in enumerate(range(0, rows, height)):
        block = (top, min(top + height, rows), *places[number : number + 2])
        dense = torch.zeros(rows, columns, dtype=torch.bool).view(-1).index_fill(0, indices, True).view(rows, columns)
        expected = dense[block[0] : block[1]].reshape(-1).nonzero().flatten()
        assert torch.equal(bare.within(*block), expected) and torch.equal(whole.within(*block), expected)
    dy, x = torch.randn(4, rows, generator=draw), torch.randn(4, columns, generator=draw)
    assert torch.equal(sampled_gradient(dy, x, bare), sampled_gradient(dy, x, whole))
    flat = whole.without_columns()
    again = flat.with_columns()
    assert (flat._col, len(flat), len(flat.to("cpu"))) == (None, len(whole), len(whole)) and again._col is not None
    for other in (flat, flat.to("cpu"), again):
        assert torch.equal(other.col, whole.col) and other.col.dtype == whole.col.dtype
        assert torch.equal(other.indices, whole.indices)
    assert again.with_columns() is again
    assert torch.equal(sampled_gradient(dy, x, flat), sampled_gradient(dy, x, whole))


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        (torch.tensor([1, 1]), "strictly ascending"),
        (torch.tensor([2, 1]), "strictly ascending"),
        (torch.tensor([-1, 1]), r"-1\b.*4 x 3"),
        (torch.tensor([0, 12]), r"\b12\b.*4 x 3"),
        (torch.tensor([[0]]), "shape"),
        (torch.tensor([0.0]), "torch.float32"),
    ],
)
def test_wrong_indices_are_refused(indices: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SparsePattern.from_indices(indices, 4, 3)


def test_tensors_that_do_not_fit_the_pattern_are_refused() -> None:
    pattern = make_pattern(4, 3, 0.5)
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="do not fit"):
        sparse_linear(x, torch.zeros(3, 4), None, torch.zeros(6), pattern)
    with pytest.raises(ValueError, match="do not fit"):
        sparse_linear(x, torch.zeros(4, 3), None, torch.zeros(5), pattern)
