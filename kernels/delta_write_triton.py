"""Triton kernels that write a delta, or replace one by another, in one launch."""

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
def _first_not_below(indices_at, entries, index, here, ROUNDS: tl.constexpr):
    """Returns the place of the first of the ascending indices that is not below `index`, by a binary search."""
    low = tl.zeros_like(index)
    high = low + entries
    for _ in range(ROUNDS):
        middle = (low + high) // 2
        probed = tl.load(indices_at + middle, mask=here & (middle < high), other=0).to(tl.int64)
        below = (probed < index) & (middle < high)
        low = tl.where(below, middle + 1, low)
        high = tl.where(below, high, middle)
    return low


@triton.jit
def _swap_kernel(
    weight_at, old_indices_at, old_base_at, old_entries, indices_at, base_at, delta_at, new_entries, old_blocks,
    OLD_ROUNDS: tl.constexpr, ROUNDS: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # No two programs touch the same entry: those of the new delta read and write its entries, and take the base values
    # of the entries that both deltas have from `old_base`; those of the old delta write its other entries.
    block = tl.program_id(0)
    if block < old_blocks:
        place = block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        here = place < old_entries
        index = tl.load(old_indices_at + place, mask=here, other=0).to(tl.int64)
        twin = _first_not_below(indices_at, new_entries, index, here, ROUNDS)
        match = tl.load(indices_at + twin, mask=here & (twin < new_entries), other=-1).to(tl.int64)
        restored = tl.load(old_base_at + place, mask=here, other=0.0)
        tl.store(weight_at + index, restored, mask=here & (match != index))
    else:
        place = (block - old_blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        here = place < new_entries
        index = tl.load(indices_at + place, mask=here, other=0).to(tl.int64)
        twin = _first_not_below(old_indices_at, old_entries, index, here, OLD_ROUNDS)
        match = tl.load(old_indices_at + twin, mask=here & (twin < old_entries), other=-1).to(tl.int64)
        shared = here & (match == index)
        displaced = tl.load(old_base_at + twin, mask=shared, other=0.0)
        base = tl.where(shared, displaced, tl.load(weight_at + index, mask=here & (match != index), other=0.0))
        tl.store(base_at + place, base, mask=here)
        delta = tl.load(delta_at + place, mask=here, other=0.0).to(WIDE)
        tl.store(weight_at + index, (base.to(WIDE) + delta).to(weight_at.dtype.element_ty), mask=here)


def launch_write_delta(weight: Tensor, indices: Tensor, base_values: Tensor, delta: Tensor) -> None:
    """Does what `write_delta` does, for a contiguous weight.

    Memory traffic per entry: its index, base value and delta, and one sector of the weight.
    """
    if len(indices):
        grid = (triton.cdiv(len(indices), _BLOCK),)
        _write_kernel[grid](weight, indices, base_values, delta, len(indices), WIDE=_wide(weight), BLOCK=_BLOCK)


def launch_swap_delta(weight: Tensor, old_indices: Tensor, old_base: Tensor, indices: Tensor, delta: Tensor) -> Tensor:
    """Does what `swap_delta` does, for a contiguous weight.

    Memory traffic per entry: of the old delta its index, base value and one sector of the weight, which is written; of
    the new one its index, delta and base value, and one sector, which is read and written. The binary searches read
    the other delta's indices from the second-level cache, for some of which neighbouring entries share the sector.
    """
    if old_base.dtype != weight.dtype:
        raise ValueError(f"old_base has dtype {old_base.dtype}, the weight has {weight.dtype}: they must be equal")
    base = torch.empty(len(indices), dtype=weight.dtype, device=weight.device)
    old_blocks, blocks = triton.cdiv(len(old_indices), _BLOCK), triton.cdiv(len(indices), _BLOCK)
    if old_blocks + blocks:
        _swap_kernel[(old_blocks + blocks,)](
            weight, old_indices, old_base, len(old_indices), indices, base, delta, len(indices), old_blocks,
            OLD_ROUNDS=len(old_indices).bit_length(), ROUNDS=len(indices).bit_length(), WIDE=_wide(weight),
            BLOCK=_BLOCK,
        )  # fmt: skip
    return base


def _wide(weight: Tensor) -> tl.dtype:
    return tl.float64 if weight.dtype == torch.float64 else tl.float32
