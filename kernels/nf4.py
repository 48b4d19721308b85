"""A linear layer with a weight in 4-bit NormalFloat (Dettmers et al., 2023) plus a sparse delta.

Thesis §7.3.2, Eq. 7.8: Y = X (DEQUANT(W) + delta). The weight is dequantised for each product, into one buffer that all
layers share. The delta is added while the weight is dequantised.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .delta_write import gather_entries, write_delta_definition
from .devices import uses_triton
from .nf4_weight import Nf4Weight
from .sparse_linear import Receiver, delta_gradient, input_and_bias_gradients
from .sparse_pattern import SparsePattern

_BUFFERS: dict[tuple[torch.device, torch.dtype], Tensor] = {}


def dequantise_definition(weight: Nf4Weight, out: Tensor, indices: Tensor | None, delta: Tensor | None) -> None:
    """Defines `dequantise` in plain torch."""
    total = weight.shape.numel()
    nibbles = torch.stack([weight.packed >> 4, weight.packed & 15], dim=1).view(-1)[:total]
    scales = weight.block_scales().repeat_interleave(weight.block)[:total]
    out.copy_((weight.code[nibbles.long()] * scales).view(weight.shape))
    if indices is not None and delta is not None:
        write_delta_definition(out, indices, gather_entries(out, indices), delta)


@torch.no_grad()
def dequantise(
    weight: Nf4Weight, indices: Tensor | None = None, delta: Tensor | None = None, out: Tensor | None = None
) -> Tensor:
    """Returns the dense weight plus a sparse delta: round(float32(round(dequantised)) + delta).

    Args:
        weight: of any shape.
        indices: (N,) int32 or int64 ascending flat row-major indices of the delta; None for no delta.
        delta: (N,) master values; None for no delta.
        out: receives the result; of the weight's shape and dtype, contiguous. If None, the result is in a buffer that
            all calls share, and the next call overwrites it.
    Returns:
        `out` or the shared buffer, of the weight's shape and dtype.
    """
    if out is None:
        out = _buffer(weight)
    if uses_triton(weight.packed):
        from .nf4_triton import launch_dequantise

        launch_dequantise(weight, out, indices, delta)
    else:
        dequantise_definition(weight, out, indices, delta)
    return out


def nf4_sparse_linear(
    x: Tensor,
    weight: Nf4Weight,
    bias: Tensor | None,
    delta: Tensor,
    pattern: SparsePattern,
    receive: Receiver | None = None,
) -> Tensor:
    """Computes y = x (DEQUANT(W) + delta)^T + b; differentiable in x, bias and delta.

    Thesis §7.3.2, Eq. 7.8. Forward and backward pass each dequantise the weight anew.

    Args:
        x: (..., columns); converted to the weight's dtype.
        weight: of shape (rows, columns).
        bias: (rows,) or None.
        delta: (N,) master values.
        pattern: the delta's N entries in the (rows, columns) matrix.
        receive: as in `sparse_linear`.
    Returns:
        (..., rows) of the weight's dtype.
    Raises:
        ValueError: the shapes of weight, delta and pattern do not fit together.
    """
    if tuple(weight.shape) != (pattern.rows, pattern.columns) or tuple(delta.shape) != (len(pattern),):
        raise ValueError(f"weight {tuple(weight.shape)} and delta {tuple(delta.shape)} do not fit {pattern}")
    y: Tensor = _Nf4SparseLinear.apply(x, weight, bias, delta, pattern, receive)
    return y


class _Nf4SparseLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Nf4Weight,
        bias: Tensor | None,
        delta: Tensor,
        pattern: SparsePattern,
        receive: Receiver | None,
    ) -> Tensor:
        ctx.weight, ctx.pattern, ctx.receive = weight, pattern, receive
        ctx.dtypes = x.dtype, None if bias is None else bias.dtype
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(weight.dtype)
            dense = dequantise(weight, pattern.indices, delta)
            y = F.linear(x, dense, None if bias is None else bias.to(weight.dtype))
        ctx.save_for_backward(x if ctx.needs_input_grad[3] else None, delta)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, None, Tensor | None, Tensor | None, None, None]:
        x, delta = ctx.saved_tensors
        dense = dequantise(ctx.weight, ctx.pattern.indices, delta) if ctx.needs_input_grad[0] else None
        dx, dbias, rows = input_and_bias_gradients(ctx, dy, dense, *ctx.dtypes)
        ddelta = None
        if ctx.needs_input_grad[3]:
            ddelta = delta_gradient(rows, x, ctx.pattern, ctx.receive).to(delta.dtype)
        return dx, None, dbias, ddelta, None, None


def _buffer(weight: Nf4Weight) -> Tensor:
    key, total = (weight.packed.device, weight.dtype), weight.shape.numel()
    if key not in _BUFFERS or _BUFFERS[key].numel() < total:
        _BUFFERS[key] = torch.empty(total, dtype=weight.dtype, device=weight.packed.device)
    return _BUFFERS[key][:total].view(weight.shape)
