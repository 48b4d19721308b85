"""SM3 on sparse deltas in one launch."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .sparse_linear import SparsePattern

_BLOCK = 1024


@triton.jit
def _sm3_kernel(
    delta_at, gradient_at, indices_at, rows_before, columns_before, rows_at, columns_at, buffer_at,
    entries, width, rate, epsilon, shrink, momentum,
    HAS_MOMENTUM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = place < entries
    index = tl.load(indices_at + place, mask=here, other=0).to(tl.int64)
    row, column = index // width, index % width
    g = tl.load(gradient_at + place, mask=here, other=0.0).to(tl.float32)
    # seen = min(rows_i, columns_j) + g^2, from the accumulators of the step before
    seen = tl.minimum(
        tl.load(rows_before + row, mask=here, other=0.0), tl.load(columns_before + column, mask=here, other=0.0)
    )
    seen += g * g
    tl.atomic_max(rows_at + row, seen, mask=here, sem="relaxed")  # a maximum: the order does not matter
    tl.atomic_max(columns_at + column, seen, mask=here, sem="relaxed")
    step = g / tl.sqrt_rn(seen + epsilon)
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
) -> None:
    """As `sm3_step`, for float32 deltas. Bytes moved: about 20 an entry; the accumulators stay in the cache."""
    if delta.dtype != torch.float32:
        raise ValueError(f"delta: {delta.dtype}: must be float32")
    if len(pattern) == 0:
        return
    _sm3_kernel[(triton.cdiv(len(pattern), _BLOCK),)](
        delta, gradient.contiguous(), pattern.indices, rows.clone(), columns.clone(), rows, columns,
        delta if buffer is None else buffer,
        len(pattern), pattern.columns, rate, epsilon, 1 - rate * decay, momentum,
        HAS_MOMENTUM=momentum > 0, BLOCK=_BLOCK,
    )  # fmt: skip
