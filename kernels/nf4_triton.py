"""Triton kernel that dequantises an NF4 weight and adds a sparse delta, in one launch."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .nf4_weight import Nf4Weight

_BLOCK = 4096  # entries of the weight per program
_DELTAS = 128  # entries of the delta that a program handles at a time


@triton.jit
def _value(packed_at, code_at, scales_at, scale_code_at, scale_scales_at, offset_at, entry, here,
           WIDTH: tl.constexpr, SCALE_WIDTH: tl.constexpr, NESTED: tl.constexpr):  # fmt: skip
    byte = tl.load(packed_at + entry // 2, mask=here, other=0).to(tl.int32)
    nibble = tl.where(entry % 2 == 0, byte >> 4, byte & 15)
    block = entry // WIDTH
    if NESTED:
        # scale = scale_code[scales[b]] * scale_scales[b // scale_block] + offset
        number = tl.load(scales_at + block, mask=here, other=0).to(tl.int32)
        scale = tl.load(scale_code_at + number, mask=here, other=0.0)
        scale = scale * tl.load(scale_scales_at + block // SCALE_WIDTH, mask=here, other=0.0) + tl.load(offset_at)
    else:
        scale = tl.load(scales_at + block, mask=here, other=0.0)
    return tl.load(code_at + nibble, mask=here, other=0.0) * scale


@triton.jit
def _dequantise_kernel(
    out_at, packed_at, code_at, scales_at, scale_code_at, scale_scales_at, offset_at, indices_at, delta_at, begins_at,
    total,
    WIDTH: tl.constexpr, SCALE_WIDTH: tl.constexpr, NESTED: tl.constexpr, HAS_DELTA: tl.constexpr,
    BLOCK: tl.constexpr, DELTAS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    entry = program.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = entry < total
    value = _value(packed_at, code_at, scales_at, scale_code_at, scale_scales_at, offset_at, entry, here,
                   WIDTH, SCALE_WIDTH, NESTED)  # fmt: skip
    tl.store(out_at + entry, value.to(out_at.dtype.element_ty), mask=here)
    if HAS_DELTA:
        tl.debug_barrier()  # other threads of this program now overwrite some of the entries stored above
        begin, end = tl.load(begins_at + program), tl.load(begins_at + program + 1)
        for at in range(begin, end, DELTAS):
            place = at + tl.arange(0, DELTAS)
            active = place < end
            index = tl.load(indices_at + place, mask=active, other=0).to(tl.int64)
            base = _value(packed_at, code_at, scales_at, scale_code_at, scale_scales_at, offset_at, index, active,
                          WIDTH, SCALE_WIDTH, NESTED)  # fmt: skip
            base = base.to(out_at.dtype.element_ty).to(tl.float32)
            delta = tl.load(delta_at + place, mask=active, other=0.0).to(tl.float32)
            tl.store(out_at + index, (base + delta).to(out_at.dtype.element_ty), mask=active)


def launch_dequantise(weight: Nf4Weight, out: Tensor, indices: Tensor | None, delta: Tensor | None) -> None:
    """Does what `dequantise` does.

    Memory traffic: reads half a byte per entry and 8 bytes per entry of the delta, and writes the dense weight.
    """
    total = weight.shape.numel()
    programs = triton.cdiv(total, _BLOCK)
    if programs == 0:
        return
    has_delta = indices is not None and delta is not None and len(indices) > 0
    begins = weight.packed
    if has_delta:
        assert indices is not None
        edges = torch.arange(programs + 1, device=indices.device, dtype=torch.int64) * _BLOCK
        begins = torch.searchsorted(indices.long(), edges)
    nested = weight.scale_code is not None
    unused = weight.code
    _dequantise_kernel[(programs,)](
        out, weight.packed, weight.code, weight.scales,
        weight.scale_code if nested else unused, weight.scale_scales if nested else unused,
        weight.offset if nested else unused,
        indices if has_delta else unused, delta if has_delta else unused, begins, total,
        WIDTH=weight.block, SCALE_WIDTH=weight.scale_block or 1, NESTED=nested, HAS_DELTA=has_delta,
        BLOCK=_BLOCK, DELTAS=_DELTAS,
    )  # fmt: skip
