"""Dropout that draws 16 random bits per entry, for CPUs, where torch's own dropout is slow.

On a CPU torch draws one entry after another on one core, about 5 ns each. Here four entries share one draw of 64 bits,
and the comparison and the product are vectorised, so that memory bandwidth is the limit.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional


def dropout(values: Tensor, probability: float) -> Tensor:
    """Sets entries to zero with a probability and scales the others by 1 / (1 - probability); differentiable once.

    The result has the distribution of torch's dropout in training, except that the probability is rounded to a
    multiple of 2**-16. The draws come from the device's default generator. The backward pass needs one byte per entry.

    Args:
        values: of any shape and floating dtype.
        probability: of setting an entry to zero, in [0, 1).
    Returns:
        of the shape and dtype of `values`.
    """
    if values.device.type != "cpu" or not probability:
        return functional.dropout(values, probability)
    keep_mask = draw_keep_mask(values.shape, probability, values.device)
    out: Tensor = _Dropout.apply(values, keep_mask, 1 / (1 - probability))
    return out


def dropout_definition(values: Tensor, keep_mask: Tensor, probability: float) -> Tensor:
    """Defines `dropout` in plain torch, for a given mask of the entries to keep."""
    return values * keep_mask / (1 - probability)


def draw_keep_mask(shape: tuple[int, ...], probability: float, device: torch.device) -> Tensor:
    """Draws a bool mask of that shape; an entry is False, to be dropped, with `probability` rounded to 16 bits."""
    count = math.prod(shape)
    bits = torch.empty(-(-count // 4), dtype=torch.int64, device=device).random_(-(2**63), None)
    return (bits.view(torch.int16)[:count] >= round(probability * 2**16) - 2**15).view(shape)


def dropout_factors(keep_mask: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """Converts a mask to factors for the entries: 0 where the mask is False, else `scale`."""
    return (
        keep_mask.view(torch.uint8).to(dtype).mul_(scale)
    )  # torch vectorises the conversion of bytes, not that of bools


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, keep_mask: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(keep_mask)
        ctx.scale = scale
        return dropout_factors(keep_mask, scale, values.dtype).mul_(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (keep_mask,) = ctx.saved_tensors
        return dropout_factors(keep_mask, ctx.scale, upstream.dtype).mul_(upstream), None, None
