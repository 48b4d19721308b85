"""Attention with dropout that stores no distribution for the backward pass, for CPUs.

On a GPU, torch's fused attention supports dropout. On a CPU it does not: with dropout torch uses the plain computation,
which stores per layer the distribution, the dropout mask and their product, each of heads x length x length entries.
`lean_attention` computes a few sequences at a time, so that their distribution fits into the cache, and computes them
again in the backward pass. Besides the inputs it stores only the dropout mask, one byte per entry.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .attention_maps import AttentionInputs
from .dropout import draw_keep_mask, dropout_factors

# Entries of one distribution that are in memory at a time; they fit into a core's cache.
_CHUNK_ENTRIES = 1 << 20
# Above this length torch's fused attention, which works on blocks of keys, becomes the faster one again.
_MAX_LENGTH = 512


def lean_attention(inputs: AttentionInputs, value: Tensor, dropout: float) -> Tensor:
    """Computes softmax(query key^T scale + mask) value, with dropout on the softmax.

    It computes what `scaled_dot_product_attention` computes and is differentiable in query, key and value. The dropout
    mask is drawn from the device's default generator, 16 bits per entry. The distribution is float32 or wider; its
    product with `value` is computed in the dtype of `value`.

    Args:
        inputs: query and key, each (batch, heads, length, head size), with scale and mask.
        value: (batch, heads, length, value size).
        dropout: probability of dropping an entry of the distribution, in [0, 1).
    Returns:
        (batch, heads, length, value size) of the value's dtype.
    """
    batch, heads, length, _ = inputs.query.shape
    keep_mask = None
    if dropout:
        keep_mask = draw_keep_mask((batch, heads, length, inputs.key.shape[2]), dropout, value.device)
    out: Tensor = _LeanAttention.apply(inputs.query, inputs.key, value, inputs, keep_mask, 1 / (1 - dropout))
    return out


def is_leaner(value: Tensor, dropout: float) -> bool:
    """Returns whether `lean_attention` trains faster than torch's attention in this case, according to measurements.

    Measured with `scripts/bench_dropout.py` on an AMD EPYC with AVX-512, one thread, forward and backward pass
    together, lengths 64 to 512, head sizes 32 and 64. Time relative to torch's attention: with dropout 0.3 to 0.5 in
    bfloat16 and 0.4 to 0.8 in float32; without dropout 0.3 to 0.85 in bfloat16, but 1.1 to 1.4 in float32. Without a
    backward pass torch's attention is faster.

    Args:
        value: (batch, heads, length, value size).
        dropout: in [0, 1).
    """
    if value.device.type != "cpu" or not torch.is_grad_enabled() or value.shape[2] > _MAX_LENGTH:
        return False
    return dropout > 0 or value.dtype is torch.bfloat16


def lean_attention_definition(
    inputs: AttentionInputs, value: Tensor, keep_mask: Tensor | None, dropout: float
) -> Tensor:
    """Defines `lean_attention` in plain torch, for a given mask of the entries to keep."""
    attention = inputs.map()
    if keep_mask is not None:
        attention = attention * keep_mask / (1 - dropout)
    return (attention @ value.to(attention.dtype)).to(value.dtype)


class _LeanAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        inputs: AttentionInputs,
        keep_mask: Tensor | None,
        dropout_scale: float,
    ) -> Tensor:
        ctx.save_for_backward(query, key, value, inputs.mask, keep_mask)
        ctx.scale, ctx.dropout_scale = inputs.scale, dropout_scale
        batch, heads, length, _ = query.shape
        # The heads of a token lie side by side, as the layer after the attention needs them.
        out = value.new_empty(batch, length, heads, value.shape[-1]).transpose(1, 2)
        with torch.autocast(query.device.type, enabled=False):
            for rows in _chunks(query, key):
                attention = inputs.part(rows).map()
                if keep_mask is not None:
                    attention.mul_(dropout_factors(keep_mask[rows], dropout_scale, attention.dtype))
                out[rows] = attention.to(value.dtype) @ value[rows].contiguous()
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask, keep_mask = ctx.saved_tensors
        inputs = AttentionInputs(query, key, ctx.scale, mask)
        gradients = tuple(torch.empty_like(part) for part in (query, key, value))
        with torch.autocast(query.device.type, enabled=False):
            for rows in _chunks(query, key):
                part = inputs.part(rows)
                attention = part.map()
                wide = attention.dtype
                upstream_rows = upstream[rows].to(value.dtype).contiguous()
                map_gradient = (upstream_rows @ value[rows].contiguous().transpose(-1, -2)).to(wide)
                dropped_map = attention
                if keep_mask is not None:
                    weights = dropout_factors(keep_mask[rows], ctx.dropout_scale, wide)
                    map_gradient.mul_(weights)
                    dropped_map = weights.mul_(attention)
                gradients[2][rows] = dropped_map.to(value.dtype).transpose(-1, -2) @ upstream_rows
                # The gradient of the scores is map * (g - sum(map * g)), with g the gradient of the map.
                mean = (map_gradient * attention).sum(-1, keepdim=True)
                scores = map_gradient.sub_(mean).mul_(attention).mul_(ctx.scale).to(query.dtype)
                gradients[0][rows] = scores @ part.key
                gradients[1][rows] = scores.transpose(-1, -2) @ part.query
        return *gradients, None, None, None


def _chunks(query: Tensor, key: Tensor) -> list[slice]:
    batch, heads, length, _ = query.shape
    chunk_sequences = max(1, _CHUNK_ENTRIES // max(heads * length * key.shape[2], 1))
    return [slice(start, start + chunk_sequences) for start in range(0, batch, chunk_sequences)]
