"""An embedding layer whose weight holds base plus sparse delta in place.

A batch uses few of the rows, so the gradient is summed for those rows alone; the delta's gradient is taken from them.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .devices import uses_triton
from .sparse_pattern import SparsePattern


def sparse_embedding(
    ids: Tensor, weight: Tensor, delta: Tensor, pattern: SparsePattern, padding_idx: int | None = None
) -> Tensor:
    """Computes y = W[ids], where W already holds base plus delta; differentiable in delta alone.

    Args:
        ids: (...) int32 or int64 numbers of rows.
        weight: (rows, columns); it gets no gradient.
        delta: (N,) master values; the only argument that gets a gradient, which is accumulated in float32.
        pattern: the delta's N entries in the (rows, columns) matrix.
        padding_idx: a row that gets no gradient, as in `nn.Embedding`; None for no such row.
    Returns:
        (..., columns) of the weight's dtype.
    Raises:
        ValueError: the shapes of weight, delta and pattern do not fit together.
    """
    if tuple(weight.shape) != (pattern.rows, pattern.columns) or tuple(delta.shape) != (len(pattern),):
        raise ValueError(f"weight {tuple(weight.shape)} and delta {tuple(delta.shape)} do not fit {pattern}")
    y: Tensor = _SparseEmbedding.apply(ids, weight, delta, pattern, padding_idx)
    return y


class _SparseEmbedding(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, ids: Tensor, weight: Tensor, delta: Tensor, pattern: SparsePattern, padding_idx: int | None
    ) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.pattern, ctx.dtype = pattern, delta.dtype
        ctx.padding_idx = padding_idx if padding_idx is None or padding_idx >= 0 else pattern.rows + padding_idx
        return F.embedding(ids, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[None, None, Tensor | None, None, None]:
        (ids,) = ctx.saved_tensors
        if not ctx.needs_input_grad[2]:
            return None, None, None, None, None
        flat = dy.reshape(-1, dy.shape[-1])
        return None, None, rows_gradient(ids.reshape(-1), flat, ctx.pattern, ctx.padding_idx).to(ctx.dtype), None, None


def rows_gradient_definition(ids: Tensor, dy: Tensor, pattern: SparsePattern, padding_idx: int | None = None) -> Tensor:
    """Defines `rows_gradient` in plain torch: computes the whole gradient, then selects the entries."""
    dense = torch.zeros(pattern.rows, pattern.columns, dtype=torch.promote_types(dy.dtype, torch.float32))
    dense.index_add_(0, ids.long(), dy.to(dense.dtype))
    if padding_idx is not None:
        dense[padding_idx] = 0
    return dense.view(-1)[pattern.indices.long()]


@torch.no_grad()
def rows_gradient(ids: Tensor, dy: Tensor, pattern: SparsePattern, padding_idx: int | None = None) -> Tensor:
    """Returns the gradient of an embedding at the pattern's entries.

    Besides the result it needs memory for the rows that `ids` names. It is deterministic.

    Args:
        ids: (tokens,) int32 or int64 numbers of rows.
        dy: (tokens, columns) gradient of the embedding's output.
        pattern: N entries of the (rows, columns) matrix.
        padding_idx: a row >= 0 whose entries get a gradient of 0; None for no such row.
    Returns:
        (N,) float32 (float64 if dy is), accumulated in that dtype.
    """
    dtype = torch.promote_types(dy.dtype, torch.float32)
    if uses_triton(dy) and dtype == torch.float32:
        from .embedding_rows_triton import launch_rows_gradient

        return launch_rows_gradient(ids, dy, pattern, padding_idx)
    gradient = torch.zeros(len(pattern), dtype=dtype, device=dy.device)
    used_rows, place = ids.long().unique(return_inverse=True)
    first = pattern.crow[used_rows].long()
    counts = pattern.crow[used_rows + 1].long() - first
    if padding_idx is not None:
        counts = counts.masked_fill(used_rows == padding_idx, 0)
    total = int(counts.sum())
    if total == 0:
        return gradient
    sums = torch.zeros(len(used_rows), pattern.columns, dtype=dtype, device=dy.device)
    if dy.device.type == "cpu":
        sums.index_add_(0, place, dy.to(dtype))
    else:
        # This sorts first and is deterministic; `index_add_` is not, on a GPU.
        sums.index_put_((place,), dy.to(dtype), accumulate=True)
    row = torch.repeat_interleave(torch.arange(len(used_rows), device=dy.device), counts, output_size=total)
    ends = counts.cumsum(0)
    entry = torch.arange(total, device=dy.device) + (first - (ends - counts))[row]
    local = row * pattern.columns + pattern.col[entry].long()
    gradient[entry] = sums.view(-1)[local]
    return gradient
