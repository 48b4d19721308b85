"""Triton kernel that counts changes by their bits, without a buffer of the tensor's size."""

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 2048
_MAGNITUDE = tl.constexpr(0x7FFFFFFF)


@triton.jit
def _count_kernel(
    after_at, before_at, counts_at, entries, before_stride, offset, bins, SHIFT: tl.constexpr, BLOCK: tl.constexpr
):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = place < entries
    after = tl.load(after_at + place, mask=here, other=0.0).to(tl.float32)
    before = tl.load(before_at + place * before_stride, mask=here, other=0.0).to(tl.float32)
    bits = (after - before).to(tl.int32, bitcast=True) & _MAGNITUDE
    bin = (bits - offset) >> SHIFT
    tl.atomic_add(counts_at + bin, 1, mask=here & (bin >= 0) & (bin < bins), sem="relaxed")


def launch_counts(after: Tensor, before: Tensor, offset: int, shift: int, bins: int) -> Tensor:
    """Counts the changes by their bin, (bits of |after - before| - offset) >> shift.

    Changes outside the bins 0 to bins - 1 are not counted.

    Args:
        after, before: of equal shape, float32 or 16 bits, contiguous; `before` may be one expanded value.
        offset: subtracted from the bits.
        shift: number of lower bits that do not tell bins apart.
        bins: number of bins.
    Returns:
        (bins,) int64; each count is below 2^31.
    """
    counts = torch.zeros(bins, dtype=torch.int32, device=after.device)
    if after.numel():
        grid = (triton.cdiv(after.numel(), _BLOCK),)
        _count_kernel[grid](
            after,
            before,
            counts,
            after.numel(),
            int(before.numel() > 1 and before.stride(-1)),
            offset,
            bins,
            SHIFT=shift,
            BLOCK=_BLOCK,
        )
    return counts.long()
