"""Triton kernel for the gradient at an embedding's active entries, one program per row that the batch uses."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .sparse_pattern import SparsePattern

_ENTRIES = 64


@triton.jit
def _rows_kernel(
    dy_at, order_at, used_rows_at, begins_at, crow_at, col_at, gradient_at, width, padding, ENTRIES: tl.constexpr
):
    number = tl.program_id(0)
    row = tl.load(used_rows_at + number)
    first, last = tl.load(begins_at + number), tl.load(begins_at + number + 1)
    begin, end = tl.load(crow_at + row).to(tl.int64), tl.load(crow_at + row + 1).to(tl.int64)
    if row != padding:
        for at in range(begin, end, ENTRIES):
            place = at + tl.arange(0, ENTRIES)
            here = place < end
            column = tl.load(col_at + place, mask=here, other=0).to(tl.int64)
            total = tl.zeros((ENTRIES,), tl.float32)
            for n in range(first, last):
                token = tl.load(order_at + n)
                total += tl.load(dy_at + token * width + column, mask=here, other=0.0).to(tl.float32)
            tl.store(gradient_at + place, total, mask=here)


def launch_rows_gradient(ids: Tensor, dy: Tensor, pattern: SparsePattern, padding_idx: int | None) -> Tensor:
    """Does what `rows_gradient` does, in float32. It is deterministic: a row's tokens are summed in their order."""
    gradient = torch.zeros(len(pattern), dtype=torch.float32, device=dy.device)
    if len(ids) == 0 or len(pattern) == 0:
        return gradient
    sorted_ids, order = ids.long().sort(stable=True)
    used_rows, counts = sorted_ids.unique_consecutive(return_counts=True)
    begins = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    _rows_kernel[(len(used_rows),)](
        dy.contiguous(), order, used_rows, begins, pattern.crow, pattern.col, gradient, pattern.columns,
        -1 if padding_idx is None else padding_idx, ENTRIES=_ENTRIES,
    )  # fmt: skip
    return gradient
