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
from .dropout import draw_kept, kept_weights

# Entries of one distribution that are in memory at a time: what a core's cache holds.
_ENTRIES_AT_ONCE = 1 << 20
# Longer sequences torch's fused attention takes a block of keys at a time, which soon is faster again.
_LONGEST = 512


def lean_attention(inputs: AttentionInputs, value: Tensor, dropout: float) -> Tensor:
    """softmax(query key^T scale + mask) times value; entries dropped with probability `dropout`, the rest scaled up.

    The same as `scaled_dot_product_attention`; differentiable in query, key and value. Entries to drop are drawn from
    the device's default generator, 16 bits each. The distribution is at least float32; it is multiplied in the inputs'
    dtype.

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
        kept = draw_kept((batch, heads, length, inputs.key.shape[2]), dropout, value.device)
    out: Tensor = _LeanAttention.apply(inputs.query, inputs.key, value, inputs, kept, 1 / (1 - dropout))
    return out


def is_leaner(value: Tensor, dropout: float) -> bool:
    """Whether `lean_attention` is the faster way to train, by measurement; without a backward pass it is not.

    On an AMD EPYC with AVX-512, one thread, forward and backward pass together, lengths 64 to 512, head sizes 32 and
    64 (`scripts/bench_dropout.py`): with dropout 0.3 to 0.5 of the time of torch's attention in bfloat16 and 0.4 to 0.8
    in float32; without dropout 0.3 to 0.85 in bfloat16, but 1.1 to 1.4 in float32.

    Args:
        value: (batch, heads, length, value size).
        dropout: in [0, 1).
    """
    if value.device.type != "cpu" or not torch.is_grad_enabled() or value.shape[2] > _LONGEST:
        return False
    return dropout > 0 or value.dtype is torch.bfloat16


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
                    attention.mul_(kept_weights(kept[rows], scaled, attention.dtype))
                out[rows] = attention.to(value.dtype) @ value[rows]
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
                given = upstream[rows].to(value.dtype)
                to_attention = (given @ value[rows].transpose(-1, -2)).to(wide)
                dropped = attention
                if kept is not None:
                    weights = kept_weights(kept[rows], ctx.scaled, wide)
                    to_attention.mul_(weights)
                    dropped = weights.mul_(attention)
                found[2][rows] = dropped.to(value.dtype).transpose(-1, -2) @ given
                # Through the softmax: map * (gradient - its mean under the map).
                mean = (to_attention * attention).sum(-1, keepdim=True)
                scores = to_attention.sub_(mean).mul_(attention).mul_(ctx.scale).to(query.dtype)
                found[0][rows] = scores @ key[rows]
                found[1][rows] = scores.transpose(-1, -2) @ query[rows]
        return *found, None, None, None


def _chunks(query: Tensor, key: Tensor) -> list[slice]:
    batch, heads, length, _ = query.shape
    at_once = max(1, _ENTRIES_AT_ONCE // max(heads * length * key.shape[2], 1))
    return [slice(start, start + at_once) for start in range(0, batch, at_once)]
