"""Weights in 4-bit NormalFloat (Dettmers et al., 2023) under a sparse delta.

Thesis §7.3.2, Eq. 7.8: Y = X (DEQUANT(W) + delta). The dense weight lives in one buffer that all layers share, and only
while a product uses it; the delta is added in the pass that dequantises.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .delta_write import gather_entries, write_delta_definition
from .devices import uses_triton
from .sparse_linear import Receiver, SparsePattern, delta_gradient, other_gradients

_BUFFERS: dict[tuple[torch.device, torch.dtype], Tensor] = {}


@dataclass(frozen=True, eq=False)
class Nf4Weight:
    """A matrix as `bitsandbytes` keeps it.

    Entry n is code[nibble n] * scale[n // block]. With double quantisation the scales are 8-bit themselves:
    scale[b] = scale_code[scales[b]] * scale_scales[b // scale_block] + offset.

    Attributes:
        packed: (bytes,) uint8, two entries a byte, row-major, the first in the upper bits.
        shape: of the matrix.
        dtype: that it is dequantised to.
        code: (16,) float32 values of the nibbles.
        scales: (blocks,) float32 largest magnitude of each block; uint8 numbers into `scale_code` if that is given.
        block: entries a block.
        scale_code: (256,) float32, or None without double quantisation; then so are the following.
        scale_scales: (ceil(blocks / scale_block),) float32.
        scale_block: blocks a scale of scales.
        offset: () float32.
    """

    packed: Tensor
    shape: torch.Size
    dtype: torch.dtype
    code: Tensor
    scales: Tensor
    block: int
    scale_code: Tensor | None = None
    scale_scales: Tensor | None = None
    scale_block: int | None = None
    offset: Tensor | None = None

    @classmethod
    def of(cls, weight: Tensor, state: Any) -> "Nf4Weight":
        """Takes a bitsandbytes weight and its QuantState apart; nothing is copied.

        Raises:
            ValueError: it is not NF4.
        """
        if state.quant_type != "nf4":
            raise ValueError(f"quant_type={state.quant_type!r}: must be 'nf4'")
        inner = state.state2 if state.nested else None
        return cls(
            packed=weight.detach().view(-1),
            shape=torch.Size(state.shape),
            dtype=state.dtype,
            code=state.code,
            scales=state.absmax,
            block=state.blocksize,
            scale_code=None if inner is None else inner.code,
            scale_scales=None if inner is None else inner.absmax,
            scale_block=None if inner is None else inner.blocksize,
            offset=None if inner is None else state.offset,
        )

    def block_scales(self) -> Tensor:
        """(blocks,) float32 scales, dequantised if they are quantised."""
        if self.scale_code is None:
            return self.scales
        assert self.scale_scales is not None and self.scale_block is not None and self.offset is not None
        of_block = self.scale_scales.repeat_interleave(self.scale_block)[: len(self.scales)]
        return self.scale_code[self.scales.long()] * of_block + self.offset


def dequantise_definition(weight: Nf4Weight, out: Tensor, indices: Tensor | None, delta: Tensor | None) -> None:
    """Says what `dequantise` computes."""
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
    """Returns the dense weight, with a sparse delta on top: round(float32(round(dequantised)) + delta).

    Args:
        weight: of any shape.
        indices: (N,) ascending flat indices, or None.
        delta: (N,) master values, or None.
        out: of the weight's shape and dtype, contiguous; None: the buffer that all calls share, so the result is gone
            with the next call of at least its size.
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
    """y = x (DEQUANT(W) + delta)^T + b; differentiable in x, bias and delta. The weight is dequantised in each pass.

    Args:
        x: (..., columns); used in the weight's dtype.
        weight: of (rows, columns).
        bias: (rows,) or None.
        delta: (N,) master values.
        pattern: of the N entries.
        receive: as in `sparse_linear`.
    Returns:
        (..., rows) of the weight's dtype.
    Raises:
        ValueError: the shapes disagree.
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
        dx, dbias, rows = other_gradients(ctx, dy, dense, *ctx.dtypes)
        ddelta = None
        if ctx.needs_input_grad[3]:
            ddelta = delta_gradient(rows, x, ctx.pattern, ctx.receive).to(delta.dtype)
        return dx, None, dbias, ddelta, None, None


def _buffer(weight: Nf4Weight) -> Tensor:
    key, total = (weight.packed.device, weight.dtype), weight.shape.numel()
    if key not in _BUFFERS or _BUFFERS[key].numel() < total:
        _BUFFERS[key] = torch.empty(total, dtype=weight.dtype, device=weight.packed.device)
    return _BUFFERS[key][:total].view(weight.shape)
