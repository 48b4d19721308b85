"""NF4 weights plus a sparse delta: compared with bitsandbytes, and the Triton kernel with the definition."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from xlt_kernels.nf4 import dequantise, dequantise_definition, nf4_sparse_linear
from xlt_kernels.nf4_weight import Nf4Weight
from xlt_kernels.sparse_linear import sparse_linear
from xlt_kernels.sparse_pattern import SparsePattern

from tests.tolerance import summation_tolerance

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = [(1, 64), (7, 33), (130, 192), (40, 300)]  # bitsandbytes itself fails at (32, 32) on a CPU
DTYPES = [torch.float32, torch.bfloat16, torch.float16]

functional = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed").functional


def _quantised(rows: int, columns: int, dtype: torch.dtype, double: bool) -> tuple[Nf4Weight, Tensor]:
    """Returns a random weight in NF4, and the dense weight to which bitsandbytes dequantises it."""
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows)).to(DEVICE, dtype)
    packed, state = functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=double)
    return Nf4Weight.of(packed, state), functional.dequantize_4bit(packed, state)


def _pattern(rows: int, columns: int, density: float) -> SparsePattern:
    order = torch.randperm(rows * columns, generator=torch.Generator().manual_seed(1))
    chosen = order[: round(density * rows * columns)].sort().values
    return SparsePattern.from_indices(chosen, rows, columns).to(DEVICE)


def test_on_paper() -> None:
    """Two blocks of two entries with scales 2 and 3; their nibbles 15, 0 and 7, 15 stand for 1, -1 and 0, 1.

    Then a delta adds 0.5 to the last entry.
    """
    code = torch.zeros(16)
    code[[0, 15]] = torch.tensor([-1.0, 1.0])
    weight = Nf4Weight(
        torch.tensor([0xF0, 0x7F], dtype=torch.uint8),
        torch.Size([2, 2]),
        torch.float32,
        code,
        torch.tensor([2.0, 3]),
        2,
    )
    assert dequantise(weight).tolist() == [[2.0, -2.0], [0.0, 3.0]]
    assert dequantise(weight, torch.tensor([3]), torch.tensor([0.5])).tolist() == [[2.0, -2.0], [0.0, 3.5]]


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_the_definition_is_bitsandbytes_own_dequantisation(
    rows: int, columns: int, dtype: torch.dtype, double: bool
) -> None:
    weight, expected = _quantised(rows, columns, dtype, double)
    assert torch.equal(dequantise(weight, out=torch.empty_like(expected)), expected)


@pytest.mark.parametrize("density", [0.0, 0.01, 0.3, 1.0])
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_the_triton_kernel_adds_the_delta_in_the_same_pass(
    rows: int, columns: int, dtype: torch.dtype, double: bool, density: float
) -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    from xlt_kernels.nf4_triton import launch_dequantise

    weight, dense = _quantised(rows, columns, dtype, double)
    pattern = _pattern(rows, columns, density)
    delta = torch.randn(len(pattern), generator=torch.Generator().manual_seed(2)).to(DEVICE)
    found, expected = torch.empty_like(dense), torch.empty_like(dense)
    launch_dequantise(weight, found, pattern.indices, delta)
    dequantise_definition(weight, expected, pattern.indices, delta)
    assert torch.equal(
        expected.view(-1)[pattern.indices.long()], (dense.view(-1)[pattern.indices.long()].float() + delta).to(dtype)
    )
    # The dequantised entry and its sum with the delta are rounded one after the other. Each rounding may go to the
    # other neighbour: Triton's interpreter truncates to bfloat16, and a fused product and sum differs in float32's
    # last bit. In float32 a doubly quantised scale is rounded once more than it is here.
    tolerance = summation_tolerance(2 if dtype == torch.float32 else 1, dtype)
    largest = float(dense.abs().max())
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * largest)


@pytest.mark.parametrize("dtype", DTYPES)
def test_output_and_gradients_are_those_of_the_dequantised_layer(dtype: torch.dtype) -> None:
    rows, columns, tokens = 130, 192, 21
    weight, dense = _quantised(rows, columns, dtype, double=True)
    pattern = _pattern(rows, columns, 0.05)
    results = []
    for way in ("nf4", "dense"):
        generator = torch.Generator().manual_seed(3)
        x, bias, delta = (
            torch.randn(shape, generator=generator).to(DEVICE).requires_grad_()
            for shape in ((3, tokens // 3, columns), (rows,), (len(pattern),))
        )
        if way == "nf4":
            y = nf4_sparse_linear(x, weight, bias, delta, pattern)
        else:
            written = torch.empty_like(dense)
            dequantise_definition(weight, written, pattern.indices, delta.detach())
            y = sparse_linear(x.to(dtype), written, bias.to(dtype), delta, pattern)
        dy = torch.randn(y.shape, generator=generator).to(DEVICE, dtype)
        results.append((y, *torch.autograd.grad(y, (x, bias, delta), dy)))
    for ours, theirs in zip(*results, strict=True):
        assert ours.dtype == theirs.dtype
        # The reference's bias is of the layer's dtype, and so its gradient is rounded once more. Before that all
        # are sums in float32, the longest over the 192 columns.
        summed = summation_tolerance(columns, torch.float32) * float(theirs.detach().abs().max())
        torch.testing.assert_close(ours, theirs, rtol=summation_tolerance(1, dtype), atol=summed)


def test_the_dense_weight_lives_in_one_buffer() -> None:
    weights = [_quantised(rows, columns, torch.float32, True)[0] for rows, columns in ((64, 64), (16, 64))]
    first, second = (dequantise(weight) for weight in weights)
    assert first.data_ptr() == second.data_ptr()


def test_other_quantisations_are_refused() -> None:
    packed, state = functional.quantize_4bit(torch.randn(8, 64, device=DEVICE), quant_type="fp4")
    with pytest.raises(ValueError, match=r"quant_type='fp4'.*'nf4'"):
        Nf4Weight.of(packed, state)


def test_shapes_that_disagree_are_refused() -> None:
    weight: Any = _quantised(8, 64, torch.float32, False)[0]
    with pytest.raises(ValueError, match="do not fit"):
        nf4_sparse_linear(torch.randn(2, 64), weight, None, torch.zeros(3), _pattern(8, 64, 0.1))
