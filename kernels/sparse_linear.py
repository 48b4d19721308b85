"""A linear layer whose weight holds base plus sparse delta in place.

The output and the input's gradient are the dense products of the frozen layer. The weight's gradient is computed at
the N active entries alone; the dense gradient is never stored. (Thesis appendix E.4 leaves this as an open problem.)
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
from .sparse_linear_costs import SLAB_BYTES, gpu_of, prefers_dots
from .sparse_pattern import SparsePattern

# How much more an entry costs as a sampled dot product than as part of the dense product, copies included. Measured on
# an AMD EPYC (AVX-512, bf16) with torch 2.13 and one thread: 5.3 to 6.6 in float32 at density 0.15, and 13 to 20 in
# bfloat16 at density 0.06, because there the dense product is twice as fast and needs no copies. These are constants
# and not measured at run time, because the choice changes the order of summation, and a resumed run must end in the
# same bits.
_SAMPLED_COST = 6.0
_SAMPLED_COST_BF16 = 16.0
_TILE_ENTRIES = 1 << 21  # on a CPU, entries of a slab of the weight's gradient, or of the part of dY that it needs


Receiver = Callable[[Tensor], None]
"""A function that receives the whole gradient of a weight, (rows, columns), in the dtype of the products.

It may change the tensor, which is released after the call.
"""


def sparse_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    delta: Tensor,
    pattern: SparsePattern,
    receive: Receiver | None = None,
    transposed: bool = False,
) -> Tensor:
    """Computes y = x W^T + b, where W already holds base plus delta; differentiable in x, bias and delta, not in W.

    With `transposed` it computes y = x W + b, as the layers of the GPT-2 family do; then x is (..., rows), bias is
    (columns,), y is (..., columns), and the delta's gradient is X^T dY at the pattern's entries.

    Under autocast the products are computed in autocast's dtype, as those of `nn.Linear` are. The delta's gradient
    accumulates in float32. The weight is not copied for the backward pass: if it is written between forward and
    backward pass, autograd reports an error.

    Args:
        x: (..., columns).
        weight: (rows, columns); it gets no gradient.
        bias: (rows,) or None.
        delta: (N,) master values. Its gradient is dY^T X at the pattern's entries.
        pattern: the delta's N entries in the (rows, columns) matrix.
        receive: if given, the backward pass computes the whole dY^T X, takes the delta's gradient from it and calls
            `receive` with it.
        transposed: whether the layer multiplies by W and not by its transpose.
    Returns:
        (..., rows).
    Raises:
        ValueError: the shapes of weight, delta and pattern do not fit together.
    """
    if tuple(weight.shape) != (pattern.rows, pattern.columns) or tuple(delta.shape) != (len(pattern),):
        raise ValueError(f"weight {tuple(weight.shape)} and delta {tuple(delta.shape)} do not fit {pattern}")
    y: Tensor = _SparseLinear.apply(x, weight, bias, delta, pattern, receive, transposed)
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
        transposed: bool,
    ) -> Tensor:
        ctx.pattern, ctx.receive, ctx.delta_dtype, ctx.transposed = pattern, receive, delta.dtype, transposed
        ctx.dtypes = x.dtype, None if bias is None else bias.dtype
        x, y = _product(x, weight.t() if transposed else weight, bias)
        # The weight is saved uncast, and the backward pass casts it again: cast copies of all layers would take half
        # the model's memory.
        ctx.save_for_backward(x if ctx.needs_input_grad[3] else None, weight if ctx.needs_input_grad[0] else None)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, None, Tensor | None, Tensor | None, None, None, None]:
        x, weight = ctx.saved_tensors
        if ctx.transposed and weight is not None:
            weight = weight.t()
        dx, dbias, rows = input_and_bias_gradients(ctx, dy, weight, *ctx.dtypes)
        ddelta = None
        if ctx.needs_input_grad[3]:
            by_row, by_column = (x.reshape(-1, x.shape[-1]), rows) if ctx.transposed else (rows, x)
            ddelta = delta_gradient(by_row, by_column, ctx.pattern, ctx.receive).to(ctx.delta_dtype)
        return dx, None, dbias, ddelta, None, None, None


def delta_gradient(dy: Tensor, x: Tensor, pattern: SparsePattern, receive: Receiver | None) -> Tensor:
    """Computes a linear layer's weight gradient at the pattern's entries.

    Args:
        dy: (tokens, rows) gradient of the layer's output.
        x: (..., columns) the layer's input.
        pattern: N entries of the (rows, columns) matrix.
        receive: as in `sparse_linear`.
    Returns:
        (N,) of a floating dtype.
    """
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
    """Returns x and x W^T + b, both in autocast's dtype if autocast is on."""
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    with torch.autocast(kind, enabled=False):
        x = _cast(x, dtype)
        return x, F.linear(x, _cast(weight, dtype), None if bias is None else _cast(bias, dtype))


def input_and_bias_gradients(
    ctx: Any, dy: Tensor, weight: Tensor | None, x_dtype: torch.dtype, bias_dtype: torch.dtype | None
) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """Computes the gradients of x and bias in a backward pass.

    Args:
        ctx: of an autograd function whose third argument is the bias.
        dy: (..., rows) gradient of the layer's output.
        weight: (rows, columns), or None if x needs no gradient.
        x_dtype, bias_dtype: of the gradients.
    Returns:
        the gradient of x, or None; the gradient of the bias, or None; dy as (tokens, rows).
    """
    dx = dbias = None
    rows = dy.reshape(-1, dy.shape[-1])
    with torch.autocast(dy.device.type, enabled=False):
        if weight is not None:
            dx = torch.matmul(dy, weight.to(dy.dtype)).to(x_dtype)
        if ctx.needs_input_grad[2]:
            dbias = rows.sum(0, dtype=torch.promote_types(dy.dtype, torch.float32)).to(bias_dtype)
    return dx, dbias, rows


def _cast(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Casts an operand as autocast does, which leaves float64 alone."""
    return tensor if dtype is None or tensor.dtype == torch.float64 else tensor.to(dtype)


def sampled_gradient_definition(dy: Tensor, x: Tensor, pattern: SparsePattern) -> Tensor:
    """Defines `sampled_gradient` in plain torch: computes the whole dY^T X, then selects the entries."""
    dtype = _accumulator(dy, x)
    return (dy.to(dtype).t() @ x.to(dtype)).reshape(-1)[pattern.indices.long()]


@torch.no_grad()
def sampled_gradient(dy: Tensor, x: Tensor, pattern: SparsePattern) -> Tensor:
    """Returns dY^T X at the pattern's entries.

    It works on blocks of rows. If few entries of a block are active, it computes a dot product for each; otherwise it
    computes the block's rows of the dense product, in a slab that all blocks use in turn, and takes the entries from
    it. It needs memory for one slab and copies of the operands. On a GPU it computes dot products for all blocks or for
    none, whichever is cheaper by `xlt_kernels.sparse_linear_costs`.

    Args:
        dy: (tokens, rows) gradient of the layer's output.
        x: (tokens, columns) the layer's input.
        pattern: N entries of the (rows, columns) matrix.
    Returns:
        (N,) float32 (float64 if an operand is float64), accumulated in that dtype. A slab of two bfloat16 operands
        is rounded to bfloat16, as the weight gradient of `nn.Linear` is.
    """
    dtype = _accumulator(dy, x)
    tokens = len(x)
    in_bf16 = dy.dtype == x.dtype == torch.bfloat16
    slab_dtype, cost = (torch.bfloat16, _SAMPLED_COST_BF16) if in_bf16 else (dtype, _SAMPLED_COST)
    if uses_triton(dy) and dtype == torch.float32:
        sizes = max(dy.element_size(), x.element_size()), slab_dtype.itemsize
        if prefers_dots(gpu_of(dy.device), len(pattern), pattern.rows, pattern.columns, tokens, *sizes):
            from .sparse_linear_triton import launch_dots

            return launch_dots(dy, x, pattern)
    gradient = torch.zeros(len(pattern), dtype=dtype, device=dy.device)
    if len(pattern) == 0 or tokens == 0:
        return gradient
    if dy.device.type == "cpu":
        height = max(64, _TILE_ENTRIES // max(tokens, pattern.columns))
    else:
        height = max(128, SLAB_BYTES // (slab_dtype.itemsize * pattern.columns) // 128 * 128)
    height = min(height, pattern.rows)
    edges = [*range(0, pattern.rows, height), pattern.rows]
    places = pattern.places(height)
    sampling = dy.device.type == "cpu" and _has_sampled_product(dtype)
    slab: Tensor | None = None
    x_by_column: Tensor | None = None  # (tokens, columns) with contiguous tokens, because dot products run along tokens
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
            # Two copies, because torch transposes a contiguous matrix several times as fast as a slice of a matrix.
            block_by_row = dy[:, top:bottom].to(dtype).contiguous().t().contiguous()
            gradient[start:stop] = torch.sparse.sampled_addmm(entries, block_by_row, x_by_column, beta=0.0).values()
        else:
            if slab is None:
                slab, operand = x.new_empty(height, pattern.columns, dtype=slab_dtype), x.to(slab_dtype)
            block = slab[: bottom - top]
            torch.mm(dy[:, top:bottom].to(slab_dtype).t(), operand, out=block)
            local = pattern.indices[start:stop].long() - top * pattern.columns
            gradient[start:stop] = block.view(-1).index_select(0, local)
    return gradient


def _accumulator(dy: Tensor, x: Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(dy.dtype, x.dtype), torch.float32)


@functools.cache
def _has_sampled_product(dtype: torch.dtype) -> bool:
    """Returns whether this build of torch has the sampled product.

    The call also triggers torch's warning about CSR tensors, which comes once per process, where it is suppressed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            index = torch.tensor([0, 1], dtype=torch.int32)
            one = torch.sparse_csr_tensor(index, index[:1], torch.ones(1, dtype=dtype), (1, 1))
            torch.sparse.sampled_addmm(one, torch.ones(1, 1, dtype=dtype), torch.ones(1, 1, dtype=dtype), beta=0.0)
        except RuntimeError:
            return False
    return True
