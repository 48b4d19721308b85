"""SM3 on sparse deltas: by hand, and against the dense algorithm on a matrix that is zero elsewhere."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from xlt_kernels.sm3 import sm3_step, sm3_step_definition
from xlt_kernels.sparse_pattern import SparsePattern

from tests.tolerance import summation_tolerance

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = [(1, 1, 1), (7, 5, 35), (9, 41, 40), (300, 3, 500), (33, 130, 2000)]


def _pattern(rows: int, columns: int, entries: int) -> SparsePattern:
    order = torch.randperm(rows * columns, generator=torch.Generator().manual_seed(entries))
    return SparsePattern.from_indices(order[:entries].sort().values, rows, columns)


def _dense_sm3(
    indices: Tensor, gradients: list[Tensor], rows: int, columns: int, rate: float, epsilon: float, decay: float,
    momentum: float, variant: str = "II",
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Entry by entry in Python floats; returns deltas and both accumulators."""
    delta, mean = [0.0] * len(indices), [0.0] * len(indices)
    row_max, column_max = [0.0] * rows, [0.0] * columns
    for gradient in gradients:
        if variant == "I":
            squares = [g * g for g in gradient.tolist()]
            cells = [divmod(index, columns) for index in indices.tolist()]
            for i in range(rows):
                row_max[i] += max((s for s, cell in zip(squares, cells, strict=True) if cell[0] == i), default=0)
            for j in range(columns):
                column_max[j] += max((s for s, cell in zip(squares, cells, strict=True) if cell[1] == j), default=0)
        new_rows, new_columns = list(row_max), list(column_max)
        for n, (index, g) in enumerate(zip(indices.tolist(), gradient.tolist(), strict=True)):
            i, j = divmod(index, columns)
            seen = min(row_max[i], column_max[j]) + (g * g if variant == "II" else 0)
            new_rows[i], new_columns[j] = max(new_rows[i], seen), max(new_columns[j], seen)
            step = g / math.sqrt(seen + epsilon)
            mean[n] = momentum * mean[n] + (1 - momentum) * step
            delta[n] = (1 - rate * decay) * delta[n] - rate * mean[n]
        row_max, column_max = new_rows, new_columns
    return tuple(torch.tensor(values, dtype=torch.float64) for values in (delta, row_max, column_max))


def test_on_paper() -> None:
    """Entries (0,0), (0,1), (1,1) of a 2 x 2 matrix, gradients 3, 4, 0 and then 4, 0, 2, rate 0.1.

    First step: seen = 9, 16, 0; rows 16, 0; columns 9, 16; steps 1, 1, 0 (epsilon keeps 0 / 0 at 0).
    Second: seen = min(16, 9) + 16 = 25, min(16, 16) + 0 = 16, min(0, 16) + 4 = 4; steps 4/5, 0, 1.
    """
    pattern = SparsePattern.from_indices(torch.tensor([0, 1, 3]), 2, 2)
    delta, rows, columns = (torch.zeros(n, dtype=torch.float64) for n in (3, 2, 2))
    for gradient, expected in (([3.0, 4, 0], [-0.1, -0.1, 0]), ([4.0, 0, 2], [-0.18, -0.1, -0.1])):
        sm3_step(delta, torch.tensor(gradient, dtype=torch.float64), pattern, rows, columns, 0.1, 1e-30)
        torch.testing.assert_close(delta, torch.tensor(expected, dtype=torch.float64), atol=1e-12, rtol=0)
    assert (rows.tolist(), columns.tolist()) == ([25.0, 4.0], [25.0, 16.0])


def test_the_first_variant_on_paper() -> None:
    """The same entries and gradients. First step: rows 16, 0; columns 9, 16; estimates 9, 16, 0; steps 1, 1, 0.

    Second: rows 16 + 16, 0 + 4; columns 9 + 16, 16 + 4; estimates 25, 20, 4; steps 4/5, 0, 1. A third with 0, 5, 0:
    rows 57, 4; columns 25, 45; estimate 45, where SM3-II has min(25, 16) + 25 = 41.
    """
    pattern = SparsePattern.from_indices(torch.tensor([0, 1, 3]), 2, 2)
    delta, rows, columns = (torch.zeros(n, dtype=torch.float64) for n in (3, 2, 2))
    steps = [([3.0, 4, 0], [-0.1, -0.1, 0]), ([4.0, 0, 2], [-0.18, -0.1, -0.1])]
    for gradient, expected in (*steps, ([0.0, 5, 0], [-0.18, -0.1 - 0.5 / math.sqrt(45), -0.1])):
        sm3_step(delta, torch.tensor(gradient, dtype=torch.float64), pattern, rows, columns, 0.1, 1e-30, variant="I")
        torch.testing.assert_close(delta, torch.tensor(expected, dtype=torch.float64), atol=1e-12, rtol=0)
    assert (rows.tolist(), columns.tolist()) == ([57.0, 4.0], [25.0, 45.0])


@pytest.mark.parametrize("variant", ["I", "II"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize(("rows", "columns", "entries"), SHAPES)
def test_five_steps_equal_those_of_single_numbers(
    rows: int, columns: int, entries: int, momentum: float, variant: str
) -> None:
    pattern = _pattern(rows, columns, entries)
    generator = torch.Generator().manual_seed(1)
    gradients = [torch.randn(entries, generator=generator, dtype=torch.float64) for _ in range(5)]
    expected = _dense_sm3(pattern.indices, gradients, rows, columns, 0.05, 1e-8, 0.3, momentum, variant)
    found = [torch.zeros(n, dtype=torch.float64) for n in (entries, rows, columns)]
    delta, row_max, column_max = found
    buffer = torch.zeros_like(delta) if momentum else None
    for gradient in gradients:
        sm3_step(delta, gradient, pattern, row_max, column_max, 0.05, 1e-8, 0.3, momentum, buffer, variant)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("variant", ["I", "II"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("rows", "columns", "entries"), [*SHAPES, (4, 4, 0)])
def test_the_triton_kernel_takes_the_same_steps(
    rows: int, columns: int, entries: int, dtype: torch.dtype, momentum: float, variant: str
) -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    from xlt_kernels.sm3_triton import launch_sm3_step

    pattern = _pattern(rows, columns, entries).to(DEVICE)
    generator = torch.Generator().manual_seed(1)
    gradients = [torch.randn(entries, generator=generator).to(DEVICE, dtype) for _ in range(3)]
    results = []
    for kind, step in ((torch.float32, launch_sm3_step), (torch.float64, sm3_step_definition)):
        state = [torch.zeros(n, dtype=kind, device=DEVICE) for n in (entries, rows, columns, entries)]
        for gradient in gradients:
            step(state[0], gradient, pattern, state[1], state[2], 0.05, 1e-8, 0.3, momentum, state[3], variant)
        results.append(state)
    for ours, theirs in zip(*results, strict=True):
        # Three steps in float32, each of about four operations: a square, a root, a quotient and a sum.
        largest = float(theirs.abs().max()) if len(theirs) else 0.0
        torch.testing.assert_close(
            ours.double(), theirs, atol=summation_tolerance(3 * 4, torch.float32) * largest, rtol=0
        )


def test_an_entry_without_gradient_stays() -> None:
    pattern = _pattern(4, 4, 6)
    delta, rows, columns = torch.zeros(6), torch.zeros(4), torch.zeros(4)
    sm3_step(delta, torch.zeros(6), pattern, rows, columns, 0.1, 1e-8)
    assert torch.equal(delta, torch.zeros(6))
