"""The linear layer whose weight holds base plus sparse delta in place.

Forward and the gradient to the input are the frozen layer's own dense products. The backward forms the weight's
gradient at the N active entries alone; dense dW is never stored (thesis appendix E.4 leaves this open).
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .devices import uses_triton

# Cost of an entry by sampled dot products over its cost by the dense product, copies included, on AMD EPYC (AVX-512,
# bf16), torch 2.13, one thread: 5.3 to 6.6 in float32 at density 0.15; in bfloat16, whose dense product is twice as
# fast and needs no copies, 13 to 20 at 0.06. Constants, not measurements at run time: the choice changes the order of
# summation, and a resumed run must end in the same bits.
_SAMPLED_COST = 6.0
_SAMPLED_COST_BF16 = 16.0
_TILE_ENTRIES = 1 << 21  # of a tile of dW, or of the rows of dY^T that make it


class SparsePattern:
    """Which entries of a (rows, columns) matrix are active.

    Attributes:
        rows, columns: the matrix's shape.
        indices: (N,) flat row-major indices, strictly ascending; int32 where rows * columns fits, else int64.
        crow: (rows + 1,) where each row's entries begin (CSR); int32 where everything fits, else int64.
        col: (N,) column of each entry, dtype of `crow`.
    """

    def __init__(self, rows: int, columns: int, indices: Tensor, crow: Tensor, col: Tensor) -> None:
        self.rows, self.columns = rows, columns
        self.indices, self.crow, self.col = indices, crow, col
        self._borders: dict[int, Tensor] = {}

    @classmethod
    def from_indices(cls, indices: Tensor, rows: int, columns: int) -> "SparsePattern":
        """Builds the pattern.

        Args:
            indices: (N,) int32 or int64 flat row-major indices, strictly ascending.
            rows, columns: shape of the weight.
        Raises:
            ValueError: not one-dimensional, not an integer, not strictly ascending, or out of range.
        """
        if indices.dim() != 1 or indices.dtype not in (torch.int32, torch.int64):
            raise ValueError(f"indices: {indices.dtype} of shape {tuple(indices.shape)}: must be (N,) int32 or int64")
        if len(indices):
            if not bool((indices[1:] > indices[:-1]).all()):
                raise ValueError("indices: must be strictly ascending")
            if int(indices[0]) < 0 or int(indices[-1]) >= rows * columns:
                raise ValueError(
                    f"indices: {int(indices[0])} to {int(indices[-1])}: must lie in a {rows} x {columns} matrix"
                )
        fits = torch.iinfo(torch.int32).max
        flat_dtype = torch.int32 if rows * columns <= fits else torch.int64
        csr_dtype = torch.int32 if max(rows, columns, len(indices)) <= fits else torch.int64
        starts = torch.arange(rows + 1, dtype=torch.int64, device=indices.device) * columns
        crow = torch.searchsorted(indices.long(), starts).to(csr_dtype)
        col = (indices % max(1, columns)).to(csr_dtype)
        return cls(rows, columns, indices.to(flat_dtype), crow, col)

    def to(self, device: torch.device | str) -> "SparsePattern":
        return SparsePattern(
            self.rows, self.columns, self.indices.to(device), self.crow.to(device), self.col.to(device)
        )

    def borders(self, width: int) -> Tensor:
        """Where the entries of each piece of a row begin: (rows, pieces + 1) flat, dtype of `crow`; kept.

        Args:
            width: columns of a piece; the last one may be narrower.
        """
        if width not in self._borders:
            pieces = -(-self.columns // width)
            edges = torch.arange(pieces + 1, dtype=torch.int64, device=self.indices.device) * width
            edges[-1] = self.columns
            starts = torch.arange(self.rows, dtype=torch.int64, device=self.indices.device) * self.columns
            flat = (starts[:, None] + edges).view(-1)
            self._borders[width] = torch.searchsorted(self.indices.long(), flat).to(self.crow.dtype)
        return self._borders[width]

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        return f"SparsePattern({len(self)} of {self.rows} x {self.columns})"


Receiver = Callable[[Tensor], None]
"""Takes a weight's whole gradient, (rows, columns), of the products' dtype; may change it; it is forgotten then."""


def sparse_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    delta: Tensor,
    pattern: SparsePattern,
    receive: Receiver | None = None,
) -> Tensor:
    """y = x W^T + b, where W already holds base plus delta; differentiable in x, bias and delta, not in W.

    Under autocast the products run in its dtype, as `nn.Linear`'s do; the delta's gradient accumulates in float32.
    The weight is not copied for the backward: writing it in between is an error that autograd reports.

    Args:
        x: (..., columns).
        weight: (rows, columns), gets no gradient.
        bias: (rows,) or None.
        delta: (N,) master values. Only its gradient is formed: (dY^T X) at the pattern's entries.
        pattern: of N entries.
        receive: forms dY^T X whole in the backward and hands it over; the delta's gradient is gathered from it.
    Returns:
        (..., rows).
    Raises:
        ValueError: the shapes of weight, delta and pattern disagree.
    """
    if tuple(weight.shape) != (pattern.rows, pattern.columns) or tuple(delta.shape) != (len(pattern),):
        raise ValueError(f"weight {tuple(weight.shape)} and delta {tuple(delta.shape)} do not fit {pattern}")
    y: Tensor = _SparseLinear.apply(x, weight, bias, delta, pattern, receive)
    return y


class _SparseLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        delta: Tensor,
        pattern: SparsePattern,
        receive: Receiver | None,
    ) -> Tensor:
        ctx.pattern, ctx.receive, ctx.delta_dtype = pattern, receive, delta.dtype
        ctx.dtypes = x.dtype, None if bias is None else bias.dtype
        x, y = _product(x, weight, bias)
        # The weight is saved as it is and cast again in the backward: a cast copy a layer would be half the model.
        ctx.save_for_backward(x if ctx.needs_input_grad[3] else None, weight if ctx.needs_input_grad[0] else None)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, None, Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        dx, dbias, rows = other_gradients(ctx, dy, weight, *ctx.dtypes)
        ddelta = None
        if ctx.needs_input_grad[3]:
            ddelta = delta_gradient(rows, x, ctx.pattern, ctx.receive).to(ctx.delta_dtype)
        return dx, None, dbias, ddelta, None, None


def delta_gradient(dy: Tensor, x: Tensor, pattern: SparsePattern, receive: Receiver | None) -> Tensor:
    """Gradient at the pattern's entries of the layer with output gradient `dy`, (tokens, rows), and input `x`."""
    x = x.reshape(-1, x.shape[-1])
    with torch.autocast(dy.device.type, enabled=False):
        if receive is None:
            return sampled_gradient(dy, x, pattern)
        dtype = torch.promote_types(dy.dtype, x.dtype)
        whole = dy.to(dtype).t() @ x.to(dtype)
        gradient = whole.view(-1).index_select(0, pattern.indices)
        receive(whole)
        return gradient


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """x as the product takes it, and the product, under autocast in its dtype."""
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    with torch.autocast(kind, enabled=False):
        x = _cast(x, dtype)
        return x, F.linear(x, _cast(weight, dtype), None if bias is None else _cast(bias, dtype))


def other_gradients(
    ctx: Any, dy: Tensor, weight: Tensor | None, x_dtype: torch.dtype, bias_dtype: torch.dtype | None
) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """Gradients to x and bias where they are wanted, and dY as (tokens, rows)."""
    dx = dbias = None
    rows = dy.reshape(-1, dy.shape[-1])
    with torch.autocast(dy.device.type, enabled=False):
        if weight is not None:
            dx = torch.matmul(dy, weight.to(dy.dtype)).to(x_dtype)
        if ctx.needs_input_grad[2]:
            dbias = rows.sum(0, dtype=torch.promote_types(dy.dtype, torch.float32)).to(bias_dtype)
    return dx, dbias, rows


def _cast(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """What autocast does to an operand: float64 stays."""
    return tensor if dtype is None or tensor.dtype == torch.float64 else tensor.to(dtype)


def sampled_gradient_definition(dy: Tensor, x: Tensor, pattern: SparsePattern) -> Tensor:
    """Says what `sampled_gradient` computes: all of dY^T X, then the entries."""
    dtype = _accumulator(dy, x)
    return (dy.to(dtype).t() @ x.to(dtype)).reshape(-1)[pattern.indices.long()]


@torch.no_grad()
def sampled_gradient(dy: Tensor, x: Tensor, pattern: SparsePattern) -> Tensor:
    """Returns dY^T X at the pattern's entries.

    By blocks of rows: sampled dot products where the block's density is low, a tile of the dense product that is
    gathered from and thrown away where it is not. Extra memory is a tile and float32 copies of the operands, at most.

    Args:
        dy: (tokens, rows).
        x: (tokens, columns).
        pattern: of N entries of (rows, columns).
    Returns:
        (N,) float32 (float64 if an operand is float64), accumulated in that. A tile of two bfloat16 operands is
        rounded to bfloat16, as the weight gradient of `nn.Linear` is.
    """
    dtype = _accumulator(dy, x)
    if uses_triton(dy) and dtype == torch.float32:
        from .sparse_linear_triton import launch_sampled_gradient

        return launch_sampled_gradient(dy, x, pattern)
    in_bf16 = dy.dtype == x.dtype == torch.bfloat16
    tile_dtype, cost = (torch.bfloat16, _SAMPLED_COST_BF16) if in_bf16 else (dtype, _SAMPLED_COST)
    gradient = torch.zeros(len(pattern), dtype=dtype, device=dy.device)
    tokens = len(x)
    if len(pattern) == 0 or tokens == 0:
        return gradient
    height = max(64, _TILE_ENTRIES // max(tokens, pattern.columns))
    edges = [*range(0, pattern.rows, height), pattern.rows]
    places = pattern.crow[torch.tensor(edges, device=pattern.crow.device)].tolist()
    sampling = dy.device.type == "cpu" and _has_sampled_product(dtype)
    x_by_column: Tensor | None = None  # (tokens, columns) with tokens contiguous: dot products read both sides in order
    for i in range(len(edges) - 1):
        top, bottom, start, stop = edges[i], edges[i + 1], places[i], places[i + 1]
        if start == stop:
            continue
        if sampling and (stop - start) * cost < (bottom - top) * pattern.columns:
            if x_by_column is None:
                x_by_column = x.to(dtype).t().contiguous().t()
            entries = torch.sparse_csr_tensor(
                pattern.crow[top : bottom + 1] - start,
                pattern.col[start:stop],
                gradient[start:stop],
                (bottom - top, pattern.columns),
                check_invariants=False,
            )
            # Two copies: torch transposes a contiguous matrix several times as fast as a slice of one.
            block_by_row = dy[:, top:bottom].to(dtype).contiguous().t().contiguous()
            gradient[start:stop] = torch.sparse.sampled_addmm(entries, block_by_row, x_by_column, beta=0.0).values()
        else:
            tile = (dy[:, top:bottom].to(tile_dtype).t() @ x.to(tile_dtype)).view(-1)
            local = pattern.indices[start:stop].long() - top * pattern.columns
            gradient[start:stop] = tile.index_select(0, local)
    return gradient


def _accumulator(dy: Tensor, x: Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(dy.dtype, x.dtype), torch.float32)


@functools.cache
def _has_sampled_product(dtype: torch.dtype) -> bool:
    """Whether this torch build can sample a product; also takes torch's once-a-process notice on CSR off the user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            index = torch.tensor([0, 1], dtype=torch.int32)
            one = torch.sparse_csr_tensor(index, index[:1], torch.ones(1, dtype=dtype), (1, 1))
            torch.sparse.sampled_addmm(one, torch.ones(1, 1, dtype=dtype), torch.ones(1, 1, dtype=dtype), beta=0.0)
        except RuntimeError:
            return False
    return True
