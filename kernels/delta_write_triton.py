"""Writing and swapping deltas in one launch."""

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 1024


@triton.jit
def _write_kernel(weight_at, indices_at, base_at, delta_at, entries, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = place < entries
    index = tl.load(indices_at + place, mask=here, other=0).to(tl.int64)
    base = tl.load(base_at + place, mask=here, other=0.0).to(WIDE)
    delta = tl.load(delta_at + place, mask=here, other=0.0).to(WIDE)
    tl.store(weight_at + index, (base + delta).to(weight_at.dtype.element_ty), mask=here)


@triton.jit
def _swap_kernel(
    weight_at, out_indices_at, out_base_at, leaving, indices_at, base_at, delta_at, coming, out_blocks,
    ROUNDS: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0)
    if block < out_blocks:
        place = block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        here = place < leaving
        index = tl.load(out_indices_at + place, mask=here, other=0).to(tl.int64)
        # Entries of both deltas are the other programs' business: find the first coming index >= this one.
        low = tl.zeros_like(index)
        high = low + coming
        for _ in range(ROUNDS):
            middle = (low + high) // 2
            probed = tl.load(indices_at + middle, mask=here & (middle < high), other=0).to(tl.int64)
            below = (probed < index) & (middle < high)
            low = tl.where(below, middle + 1, low)
            high = tl.where(below, high, middle)
        found = tl.load(indices_at + low, mask=here & (low < coming), other=-1).to(tl.int64)
        base = tl.load(out_base_at + place, mask=here, other=0.0)
        tl.store(weight_at + index, base, mask=here & (found != index))
    else:
        place = (block - out_blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        here = place < coming
        index = tl.load(indices_at + place, mask=here, other=0).to(tl.int64)
        base = tl.load(base_at + place, mask=here, other=0.0).to(WIDE)
        delta = tl.load(delta_at + place, mask=here, other=0.0).to(WIDE)
        tl.store(weight_at + index, (base + delta).to(weight_at.dtype.element_ty), mask=here)


def launch_write_delta(weight: Tensor, indices: Tensor, base_values: Tensor, delta: Tensor) -> None:
    """As `write_delta`, for a contiguous weight. Bytes moved: index, base, delta, and a sector of the weight each."""
    if len(indices):
        grid = (triton.cdiv(len(indices), _BLOCK),)
        _write_kernel[grid](weight, indices, base_values, delta, len(indices), WIDE=_wide(weight), BLOCK=_BLOCK)


def launch_swap_delta(
    weight: Tensor, out_indices: Tensor, out_base: Tensor, indices: Tensor, base_values: Tensor, delta: Tensor
) -> None:
    """As `swap_delta`, for a contiguous weight."""
    if out_base.dtype != weight.dtype:
        raise ValueError(f"out_base: {out_base.dtype}, the weight is {weight.dtype}: must be equal")
    out_blocks, blocks = triton.cdiv(len(out_indices), _BLOCK), triton.cdiv(len(indices), _BLOCK)
    if out_blocks + blocks:
        _swap_kernel[(out_blocks + blocks,)](
            weight, out_indices, out_base, len(out_indices), indices, base_values, delta, len(indices), out_blocks,
            ROUNDS=len(indices).bit_length(), WIDE=_wide(weight), BLOCK=_BLOCK,
        )  # fmt: skip


def _wide(weight: Tensor) -> tl.dtype:
    return tl.float64 if weight.dtype == torch.float64 else tl.float32
