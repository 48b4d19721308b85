"""Attention with dropout that keeps no distribution for its backward pass, on devices whose fused attention lacks that.

On a GPU fused attention draws dropout itself. On a CPU torch's has none: with dropout it computes attention in the
plain way, and keeps of every layer the distribution, the mask and their product, heads x length x length each. Here a
few sequences are computed at a time, while their distribution fits into the cache, and again in the backward pass; what
is kept besides the inputs is the mask, a byte an entry.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .attention_maps import AttentionInputs

# Entries of one distribution that are in memory at a time: what a core's cache holds.
_ENTRIES_AT_ONCE = 1 << 20


def lean_attention(inputs: AttentionInputs, value: Tensor, dropout: float) -> Tensor:
    """softmax(query key^T scale + mask) times value; entries dropped with probability `dropout`, the rest scaled up.

    The same as `scaled_dot_product_attention`; differentiable in query, key and value. Entries to drop are drawn from
    the device's default generator. Sums are at least float32.

    Args:
        inputs: query, key: (batch, heads, length, head size).
        value: (batch, heads, length, value size).
        dropout: in [0, 1).
    Returns:
        (batch, heads, length, value size) of the value's dtype.
    """
    batch, heads, length, _ = inputs.query.shape
    kept = None
    if dropout:
        kept = torch.empty(batch, heads, length, inputs.key.shape[2], dtype=torch.bool, device=value.device)
        kept.bernoulli_(1 - dropout)
    out: Tensor = _LeanAttention.apply(inputs.query, inputs.key, value, inputs, kept, 1 / (1 - dropout))
    return out


def lean_attention_definition(inputs: AttentionInputs, value: Tensor, kept: Tensor | None, dropout: float) -> Tensor:
    """Says what `lean_attention` computes, given the entries that are kept."""
    attention = inputs.map()
    if kept is not None:
        attention = attention * kept / (1 - dropout)
    return (attention @ value.to(attention.dtype)).to(value.dtype)


class _LeanAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, inputs: AttentionInputs, kept: Tensor | None, scaled: float
    ) -> Tensor:
        ctx.save_for_backward(query, key, value, inputs.mask, kept)
        ctx.scale, ctx.scaled = inputs.scale, scaled
        out = torch.empty(*query.shape[:3], value.shape[-1], dtype=value.dtype, device=value.device)
        with torch.autocast(query.device.type, enabled=False):
            for rows in _chunks(query, key):
                attention = inputs.map(rows)
                if kept is not None:
                    attention.mul_(kept[rows]).mul_(scaled)
                out[rows] = attention @ value[rows].to(attention.dtype)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask, kept = ctx.saved_tensors
        inputs = AttentionInputs(query, key, ctx.scale, mask)
        found = tuple(torch.empty_like(part) for part in (query, key, value))
        with torch.autocast(query.device.type, enabled=False):
            for rows in _chunks(query, key):
                attention = inputs.map(rows)
                wide = attention.dtype
                given = upstream[rows].to(wide)
                to_attention = given @ value[rows].to(wide).transpose(-1, -2)
                dropped = attention
                if kept is not None:
                    to_attention.mul_(kept[rows]).mul_(ctx.scaled)
                    dropped = (attention * kept[rows]).mul_(ctx.scaled)
                found[2][rows] = dropped.transpose(-1, -2) @ given
                # Through the softmax: map * (gradient - its mean under the map).
                mean = (to_attention * attention).sum(-1, keepdim=True)
                scores = to_attention.sub_(mean).mul_(attention).mul_(ctx.scale)
                found[0][rows] = scores @ key[rows].to(wide)
                found[1][rows] = scores.transpose(-1, -2) @ query[rows].to(wide)
        return *found, None, None, None


def _chunks(query: Tensor, key: Tensor) -> list[slice]:
    batch, heads, length, _ = query.shape
    at_once = max(1, _ENTRIES_AT_ONCE // max(heads * length * key.shape[2], 1))
    return [slice(start, start + at_once) for start in range(0, batch, at_once)]
