"""A linear layer whose weight holds base plus sparse delta in place.

The output and the input's gradient are the dense products of the frozen layer. The weight's gradient is computed at
the N active entries alone; the dense gradient is never stored. (Thesis appendix E.4 leaves this as an open problem.)
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .devices import uses_triton
from .sparse_linear_costs import SLAB_BYTES, gpu_of, prefers_dots
from .sparse_pattern import SparsePattern

# What the ways to a sampled gradient cost on a CPU, in multiply-adds of the dense product: a dot product, for each
# token of an entry, and a copy of an operand by token, for each number copied. Measured with
# `scripts/bench_sparse_linear.py` and torch 2.13 on one thread. In float32 on an Intel Xeon (AVX-512) a dot product
# took 5 to 7 at 256 columns, 6.5 to 9 at 768 and at most 11, a copy 70 to 130. On an AMD EPYC (AVX-512) only their sum
# was measured, by torch's slower sampled product: 5.3 to 6.6 an entry of 768 x 768 at density 0.15, so a dot product
# takes at most 3.9 to 5.2 there if a copy takes 80. In bfloat16, whose dense product is twice as fast and reads its
# operands as they are, the sum was 13 to 20 at density 0.06 there. A wrong constant costs little: it matters only
# between the densities at which the ways cross by the wrong and by the right one, and there one way takes at most as
# much longer as the constants differ.
# These are constants and not measured at run time, because the choice changes the order of summation, and a resumed run
# must end in the same bits.
_DOT_COST, _COPY_COST = 5.5, 80.0
_DOT_COST_BF16, _COPY_COST_BF16 = 9.0, 160.0
_TILE_ENTRIES = 1 << 21  # on a CPU, entries of a slab of the weight's gradient, or of the part of dY that it needs
_DOTS = "_embedding_bag_per_sample_weights_backward"  # a product of torch: dot products of chosen pairs of rows


Receiver = Callable[[Tensor], None]
"""A function that receives the whole gradient of a weight, (rows, columns), in the dtype of the products.

It may change the tensor, which is released after the call.
"""


class _Input:
    """The input of one or several layers, such as query, key and value, whose copy by token they share.

    A layer joins the layer before it if both have the same input, which is kept until then, so that no other tensor can
    have its address. The copy is kept with the tensor that it was made of, for the same reason: with activation
    checkpointing the saved input is another tensor. It is freed when the last of the layers has its gradient.

    Attributes:
        layers: how many have joined.
    """

    _latest: "tuple[_Input, tuple[Any, ...], Tensor] | None" = None  # with the input and its key

    def __init__(self) -> None:
        self._copied: tuple[tuple[Any, ...], Tensor, Tensor] | None = None  # key, input, copy
        self._left = self.layers = 0

    @classmethod
    def of(cls, x: Tensor) -> "_Input":
        """Returns that of the previous layer if it has the same input, else a new one."""
        key = cls._key_of(x)
        if cls._latest is None or cls._latest[1] != key:
            cls._latest = cls(), key, x.detach()
        found = cls._latest[0]
        found.layers += 1
        found._left += 1
        return found

    @staticmethod
    def _key_of(x: Tensor) -> tuple[Any, ...]:
        """Identifies the values of a tensor as long as it is kept."""
        storage = x.untyped_storage()._cdata
        return storage, x.storage_offset(), x._version, tuple(x.shape), x.stride(), x.dtype

    def by_token(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Returns x^T, (columns, tokens), contiguous, where `x` is the saved input."""
        key = (*self._key_of(x), dtype)
        if self._copied is None or self._copied[0] != key:
            self._copied = key, x.detach(), _by_token(x, dtype)
        return self._copied[2]

    def close(self) -> None:
        """A layer has its gradient; none can join any more."""
        _Input._latest = None
        self._left -= 1
        if self._left <= 0:
            self._copied = None


def sparse_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    delta: Tensor,
    pattern: SparsePattern,
    receive: Receiver | None = None,
    transposed: bool = False,
    by_token: bool = False,
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
        by_token: whether y lies in memory as y^T does, (rows, tokens). The delta's gradient needs dY so, and that of
            the next layer needs y so; they need no copies if only operations on single entries are between the two
            layers. It has no effect on transposed layers and without gradients.
    Returns:
        (..., rows).
    Raises:
        ValueError: the shapes of weight, delta and pattern do not fit together.
    """
    if tuple(weight.shape) != (pattern.rows, pattern.columns) or tuple(delta.shape) != (len(pattern),):
        raise ValueError(f"weight {tuple(weight.shape)} and delta {tuple(delta.shape)} do not fit {pattern}")
    by_token = by_token and not transposed and torch.is_grad_enabled()
    y: Tensor = _SparseLinear.apply(x, weight, bias, delta, pattern, receive, transposed, by_token)
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
        by_token: bool,
    ) -> Tensor:
        ctx.pattern, ctx.receive, ctx.delta_dtype, ctx.transposed = pattern, receive, delta.dtype, transposed
        ctx.dtypes = x.dtype, None if bias is None else bias.dtype
        x, y = _product(x, weight.t() if transposed else weight, bias, by_token)
        ctx.x_by_token = _lies_by_token(x.reshape(-1, x.shape[-1]))
        ctx.input = _Input.of(x) if ctx.needs_input_grad[3] and receive is None and not transposed else None
        # The weight is saved uncast, and the backward pass casts it again: cast copies of all layers would take half
        # the model's memory.
        ctx.save_for_backward(x if ctx.needs_input_grad[3] else None, weight if ctx.needs_input_grad[0] else None)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        if ctx.transposed and weight is not None:
            weight = weight.t()
        x_dtype, bias_dtype = ctx.dtypes
        dx, dbias, rows = input_and_bias_gradients(ctx, dy, weight, x_dtype, bias_dtype, ctx.x_by_token)
        ddelta = None
        if ctx.needs_input_grad[3]:
            by_row, by_column = (x.reshape(-1, x.shape[-1]), rows) if ctx.transposed else (rows, x)
            ddelta = delta_gradient(by_row, by_column, ctx.pattern, ctx.receive, ctx.input).to(ctx.delta_dtype)
            if ctx.input is not None:
                ctx.input.close()
        return dx, None, dbias, ddelta, None, None, None, None


def delta_gradient(
    dy: Tensor, x: Tensor, pattern: SparsePattern, receive: Receiver | None, shared: _Input | None = None
) -> Tensor:
    """Computes a linear layer's weight gradient at the pattern's entries.

    Args:
        dy: (tokens, rows) gradient of the layer's output.
        x: (..., columns) the layer's input.
        pattern: N entries of the (rows, columns) matrix.
        receive: as in `sparse_linear`.
        shared: of x, if other layers have the same input.
    Returns:
        (N,) of a floating dtype.
    """
    x = x.reshape(-1, x.shape[-1])
    with torch.autocast(dy.device.type, enabled=False):
        if receive is None:
            return sampled_gradient(dy, x, pattern, shared)
        dtype = torch.promote_types(dy.dtype, x.dtype)
        whole = dy.to(dtype).t() @ x.to(dtype)
        gradient = whole.view(-1).index_select(0, pattern.indices)
        receive(whole)
        return gradient


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, by_token: bool = False) -> tuple[Tensor, Tensor]:
    """Returns x and x W^T + b, both in autocast's dtype if autocast is on; with `by_token` as `sparse_linear` says."""
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    with torch.autocast(kind, enabled=False):
        x, weight, bias = _cast(x, dtype), _cast(weight, dtype), None if bias is None else _cast(bias, dtype)
        if not by_token and x.is_contiguous():
            return x, F.linear(x, weight, bias)
        flat, shape = x.reshape(-1, x.shape[-1]), (*x.shape[:-1], weight.shape[0])
        if by_token:
            y = weight @ flat.t() if bias is None else torch.addmm(bias[:, None], weight, flat.t())
            return x, y.t().view(shape)
        return x, F.linear(flat, weight, bias).view(shape)  # torch adds the bias in a pass of its own if x has 3 dims


def input_and_bias_gradients(
    ctx: Any,
    dy: Tensor,
    weight: Tensor | None,
    x_dtype: torch.dtype,
    bias_dtype: torch.dtype | None,
    x_by_token: bool = False,
) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """Computes the gradients of x and bias in a backward pass.

    Args:
        ctx: of an autograd function whose third argument is the bias.
        dy: (..., rows) gradient of the layer's output.
        weight: (rows, columns), or None if x needs no gradient.
        x_dtype, bias_dtype: of the gradients.
        x_by_token: whether x lies in memory as x^T does; its gradient then does, too.
    Returns:
        the gradient of x, or None; the gradient of the bias, or None; dy as (tokens, rows).
    """
    dx = dbias = None
    rows = dy.reshape(-1, dy.shape[-1])
    with torch.autocast(dy.device.type, enabled=False):
        if weight is not None:
            weight = weight.to(dy.dtype)
            by_token = torch.mm(weight.t(), rows.t()) if x_by_token else None
            product = rows @ weight if by_token is None else by_token.t()
            dx = product.view(*dy.shape[:-1], weight.shape[1]).to(x_dtype)
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
def sampled_gradient(dy: Tensor, x: Tensor, pattern: SparsePattern, shared: _Input | None = None) -> Tensor:
    """Returns dY^T X at the pattern's entries.

    It works on blocks of rows. If few entries of a block are active, it computes a dot product for each; otherwise it
    computes the block's rows of the dense product, in a slab that all blocks use in turn, and takes the entries from
    it. It needs memory for one slab and copies of the operands; one that lies in memory by token is not copied. On a
    GPU it computes dot products for all blocks or for none, whichever is cheaper by `xlt_kernels.sparse_linear_costs`.

    Args:
        dy: (tokens, rows) gradient of the layer's output.
        x: (tokens, columns) the layer's input.
        pattern: N entries of the (rows, columns) matrix.
        shared: of x, if other layers have the same input.
    Returns:
        (N,) float32 (float64 if an operand is float64), accumulated in that dtype. A slab of two bfloat16 operands
        is rounded to bfloat16, as the weight gradient of `nn.Linear` is.
    """
    dtype = _accumulator(dy, x)
    tokens = len(x)
    slab_dtype = torch.bfloat16 if dy.dtype == x.dtype == torch.bfloat16 else dtype
    on_cpu = dy.device.type == "cpu"
    if uses_triton(dy) and dtype == torch.float32:
        sizes = max(dy.element_size(), x.element_size()), slab_dtype.itemsize
        if prefers_dots(gpu_of(dy.device), len(pattern), pattern.rows, pattern.columns, tokens, *sizes):
            from .sparse_linear_triton import launch_dots

            return launch_dots(dy, x, pattern)
    gradient = torch.zeros(len(pattern), dtype=dtype, device=dy.device)
    if len(pattern) == 0 or tokens == 0:
        return gradient
    if on_cpu:
        height = max(64, _TILE_ENTRIES // max(tokens, pattern.columns))
    else:
        height = max(128, SLAB_BYTES // (slab_dtype.itemsize * pattern.columns) // 128 * 128)
    height = min(height, pattern.rows)
    edges = [*range(0, pattern.rows, height), pattern.rows]
    places = pattern.places(height)
    by_dots = _blocks_by_dots(dy, x, pattern, edges, places, shared) if on_cpu and _has_dots(dtype) else set()
    if by_dots:
        x_by_token = _by_token(x, dtype) if shared is None else shared.by_token(x, dtype)
        dy_by_token = _by_token(dy, dtype)
    slab: Tensor | None = None
    for i in range(len(edges) - 1):
        top, bottom, start, stop = edges[i], edges[i + 1], places[i], places[i + 1]
        if start == stop:
            continue
        if i in by_dots:
            columns, crow = pattern.col[start:stop], pattern.crow[top : bottom + 1] - start
            gradient[start:stop] = _dots(dy_by_token[top:bottom], x_by_token, crow, columns)
        else:
            if slab is None:
                slab, operand = x.new_empty(height, pattern.columns, dtype=slab_dtype), x.to(slab_dtype)
            block = slab[: bottom - top]
            torch.mm(dy[:, top:bottom].to(slab_dtype).t(), operand, out=block)
            gradient[start:stop] = block.view(-1).index_select(0, pattern.within(top, bottom, start, stop))
    return gradient


def _blocks_by_dots(
    dy: Tensor, x: Tensor, pattern: SparsePattern, edges: list[int], places: list[int], shared: _Input | None
) -> set[int]:
    """Returns the numbers of the blocks whose gradient costs less by dot products, copies of the operands included.

    The copy of x is for all blocks and for all layers that share it.
    """
    in_bf16 = dy.dtype == x.dtype == torch.bfloat16
    dot_cost, copy_cost = (_DOT_COST_BF16, _COPY_COST_BF16) if in_bf16 else (_DOT_COST, _COPY_COST)
    row_cost = 0.0 if _lies_by_token(dy) and not in_bf16 else copy_cost
    saved = {}
    for i in range(len(edges) - 1):
        rows, entries = edges[i + 1] - edges[i], places[i + 1] - places[i]
        saved[i] = rows * (pattern.columns - row_cost) - dot_cost * entries
    chosen = {i for i, saving in saved.items() if saving > 0 and places[i + 1] > places[i]}
    column_cost = 0.0 if _lies_by_token(x) and not in_bf16 else copy_cost / (1 if shared is None else shared.layers)
    return chosen if sum(saved[i] for i in chosen) > column_cost * pattern.columns else set()


def _dots(dy: Tensor, x: Tensor, crow: Tensor, columns: Tensor) -> Tensor:
    """Returns for each entry of a CSR pattern the dot product of its row of `dy` and the row of `x` of its column.

    Torch has this product as the gradient of `embedding_bag` for its weights: rows are the bags, columns the words. It
    calls the BLAS's dot product, which sums along several lanes; `torch.sparse.sampled_addmm` waits for each addition
    and takes 1.1 to 1.6 times as long.

    Args:
        dy: (rows, tokens).
        x: (columns, tokens) of the same dtype.
        crow: (rows + 1,) and columns: (N,), int32 or int64.
    """
    numbers = torch.arange(len(dy), dtype=crow.dtype)
    row = torch.repeat_interleave(numbers, crow.diff(), output_size=len(columns))
    found: Tensor = getattr(torch.ops.aten, _DOTS)(dy, x, columns, crow[:-1].contiguous(), row, 0, -1)
    return found


def _by_token(operand: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns the transpose of (tokens, size), contiguous, because dot products run along tokens."""
    return operand.to(dtype).t().contiguous()


def _lies_by_token(operand: Tensor) -> bool:
    """Returns whether (tokens, size) lies in memory as its transpose does."""
    return operand.t().is_contiguous() and not operand.is_contiguous()


def _accumulator(dy: Tensor, x: Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(dy.dtype, x.dtype), torch.float32)


@functools.cache
def _has_dots(dtype: torch.dtype) -> bool:
    """Returns whether this build of torch has the product that `_dots` calls, and it computes what it should."""
    number, one = torch.zeros(2, dtype=torch.int32), torch.ones(1, 3, dtype=dtype)
    number[1] = 1
    try:
        return _dots(one, 2 * one, number, number[:1]).tolist() == [6.0]
    except (AttributeError, RuntimeError, TypeError):
        return False
