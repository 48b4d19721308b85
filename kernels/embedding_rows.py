"""The embedding whose weight holds base plus sparse delta in place.

A batch touches few rows: the gradient is summed over those rows alone and gathered from them.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .devices import uses_triton
from .sparse_linear import SparsePattern


def sparse_embedding(
    ids: Tensor, weight: Tensor, delta: Tensor, pattern: SparsePattern, padding_idx: int | None = None
) -> Tensor:
    """y = W[ids], where W already holds base plus delta; differentiable in delta alone.

    Args:
        ids: (...) int32 or int64.
        weight: (rows, columns), gets no gradient.
        delta: (N,) master values. Only its gradient is formed, in float32.
        pattern: of N entries of (rows, columns).
        padding_idx: a row that gets no gradient, as in `nn.Embedding`.
    Returns:
        (..., columns) of the weight's dtype.
    Raises:
        ValueError: the shapes of weight, delta and pattern disagree.
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
    """Says what `rows_gradient` computes: the embedding's whole gradient, then the entries."""
    dense = torch.zeros(pattern.rows, pattern.columns, dtype=torch.promote_types(dy.dtype, torch.float32))
    dense.index_add_(0, ids.long(), dy.to(dense.dtype))
    if padding_idx is not None:
        dense[padding_idx] = 0
    return dense.view(-1)[pattern.indices.long()]


@torch.no_grad()
def rows_gradient(ids: Tensor, dy: Tensor, pattern: SparsePattern, padding_idx: int | None = None) -> Tensor:
    """Returns the gradient of an embedding at the pattern's entries.

    Memory beside the result: the touched rows. Deterministic.

    Args:
        ids: (tokens,) integers.
        dy: (tokens, columns).
        pattern: of N entries of (rows, columns).
        padding_idx: >= 0, a row whose entries get 0.
    Returns:
        (N,) float32 (float64 if dy is), accumulated in that dtype.
    """
    dtype = torch.promote_types(dy.dtype, torch.float32)
    if uses_triton(dy) and dtype == torch.float32:
        from .embedding_rows_triton import launch_rows_gradient

        return launch_rows_gradient(ids, dy, pattern, padding_idx)
    gradient = torch.zeros(len(pattern), dtype=dtype, device=dy.device)
    touched, place = ids.long().unique(return_inverse=True)
    first = pattern.crow[touched].long()
    counts = pattern.crow[touched + 1].long() - first
    if padding_idx is not None:
        counts = counts.masked_fill(touched == padding_idx, 0)
    total = int(counts.sum())
    if total == 0:
        return gradient
    sums = torch.zeros(len(touched), pattern.columns, dtype=dtype, device=dy.device)
    if dy.device.type == "cpu":
        sums.index_add_(0, place, dy.to(dtype))
    else:
        sums.index_put_((place,), dy.to(dtype), accumulate=True)  # sorts first: index_add_ is not deterministic there
    row = torch.repeat_interleave(torch.arange(len(touched), device=dy.device), counts, output_size=total)
    ends = counts.cumsum(0)
    entry = torch.arange(total, device=dy.device) + (first - (ends - counts))[row]
    local = row * pattern.columns + pattern.col[entry].long()
    gradient[entry] = sums.view(-1)[local]
    return gradient
