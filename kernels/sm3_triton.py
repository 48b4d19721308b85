"""Triton kernel for one step of SM3 on a sparse delta, in one launch."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .sparse_pattern import SparsePattern

_BLOCK = 1024


@triton.jit
def _sm3_kernel(
    delta_at, gradient_at, indices_at, rows_before, columns_before, rows_at, columns_at, buffer_at,
    entries, width, rate, epsilon, shrink, momentum,
    HAS_MOMENTUM: tl.constexpr, ACCUMULATES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = place < entries
    index = tl.load(indices_at + place, mask=here, other=0).to(tl.int64)
    row, column = index // width, index % width
    g = tl.load(gradient_at + place, mask=here, other=0.0).to(tl.float32)
    # estimate = min(rows_i, columns_j) + g^2, with the accumulators of the step before (SM3-I: of this step, no g^2)
    estimate = tl.minimum(
        tl.load(rows_before + row, mask=here, other=0.0), tl.load(columns_before + column, mask=here, other=0.0)
    )
    if ACCUMULATES:
        estimate += g * g
        tl.atomic_max(rows_at + row, estimate, mask=here, sem="relaxed")  # the order of maxima does not matter
        tl.atomic_max(columns_at + column, estimate, mask=here, sem="relaxed")
    step = g / tl.sqrt_rn(estimate + epsilon)
    if HAS_MOMENTUM:
        step = momentum * tl.load(buffer_at + place, mask=here, other=0.0) + (1 - momentum) * step
        tl.store(buffer_at + place, step, mask=here)
    delta = tl.load(delta_at + place, mask=here, other=0.0)
    tl.store(delta_at + place, shrink * delta - rate * step, mask=here)


def launch_sm3_step(
    delta: Tensor,
    gradient: Tensor,
    pattern: SparsePattern,
    rows: Tensor,
    columns: Tensor,
    rate: float,
    epsilon: float,
    decay: float,
    momentum: float,
    buffer: Tensor | None,
    variant: str = "II",
) -> None:
    """Does what `sm3_step` does, for float32 deltas.

    Memory traffic: about 20 bytes per entry. The accumulators stay in the cache. SM3-I's are summed up before, by
    launches of torch's.
    """
    if delta.dtype != torch.float32:
        raise ValueError(f"delta has dtype {delta.dtype}: the Triton kernel of SM3 needs float32")
    if len(pattern) == 0:
        return
    before = (rows.clone(), columns.clone()) if variant == "II" else (rows, columns)
    if variant == "I":
        for accumulators, largest in zip((rows, columns), pattern.largest(gradient.float().square()), strict=True):
            accumulators += largest
    _sm3_kernel[(triton.cdiv(len(pattern), _BLOCK),)](
        delta, gradient.contiguous(), pattern.indices, *before, rows, columns,
        delta if buffer is None else buffer,
        len(pattern), pattern.columns, rate, epsilon, 1 - rate * decay, momentum,
        HAS_MOMENTUM=momentum > 0, ACCUMULATES=variant == "II", BLOCK=_BLOCK,
    )  # fmt: skip
