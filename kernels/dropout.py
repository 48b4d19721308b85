"""Dropout whose entries are drawn 16 bits each, on devices where torch draws them slowly.

On a CPU torch draws one entry after the other, some 5 ns each, on one core. Four of ours share a draw of 64 bits, and
comparing and multiplying are vectorised: what limits them is the tensor's bytes.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional


def dropout(values: Tensor, probability: float) -> Tensor:
    """Drops entries with a probability and scales the others up; differentiable once.

    Equal in distribution to torch's dropout in training, but for the probability, which is rounded to 2**-16. Drawn
    from the device's default generator. Kept for the backward pass: a byte an entry.

    Args:
        values: of any shape and floating dtype.
        probability: in [0, 1).
    """
    if values.device.type != "cpu" or not probability:
        return functional.dropout(values, probability)
    kept = draw_kept(values.shape, probability, values.device)
    out: Tensor = _Dropout.apply(values, kept, 1 / (1 - probability))
    return out


def dropout_definition(values: Tensor, kept: Tensor, probability: float) -> Tensor:
    """Says what `dropout` computes, given the entries that are kept."""
    return values * kept / (1 - probability)


def draw_kept(shape: tuple[int, ...], probability: float, device: torch.device) -> Tensor:
    """Bool of that shape, False with `probability` to 16 bits."""
    count = math.prod(shape)
    bits = torch.empty(-(-count // 4), dtype=torch.int64, device=device).random_(-(2**63), None)
    return (bits.view(torch.int16)[:count] >= round(probability * 2**16) - 2**15).view(shape)


def kept_weights(kept: Tensor, scaled: float, dtype: torch.dtype) -> Tensor:
    """What entries are multiplied with: 0 for one that is dropped, else `scaled`."""
    return kept.view(torch.uint8).to(dtype).mul_(scaled)  # of bytes the conversion is vectorised, of bools it is not


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, kept: Tensor, scaled: float) -> Tensor:
        ctx.save_for_backward(kept)
        ctx.scaled = scaled
        return kept_weights(kept, scaled, values.dtype).mul_(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (kept,) = ctx.saved_tensors
        return kept_weights(kept, ctx.scaled, upstream.dtype).mul_(upstream), None, None
