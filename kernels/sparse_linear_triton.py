"""Triton kernel for the gradient at a linear layer's active entries: dot products over the tokens, grouped by row."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .sparse_linear_costs import CHUNK
from .sparse_pattern import SparsePattern

_TOKENS = 256


@triton.jit
def _dot_kernel(
    dy_at, x_at, indices_at, starts_at, gradient_at, entries, columns, tokens,
    CHUNK: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    start = tl.load(starts_at + tl.program_id(0)).to(tl.int64)
    place = start + tl.arange(0, CHUNK)
    row = tl.load(indices_at + start).to(tl.int64) // columns
    # The chunk ends where its row does.
    index = tl.load(indices_at + place, mask=place < entries, other=0).to(tl.int64)
    here = (place < entries) & (index // columns == row)
    x_offset = tl.where(here, index % columns, 0) * tokens
    products = tl.zeros((CHUNK, TOKENS), tl.float32)
    for begin in range(0, tokens, TOKENS):
        token = begin + tl.arange(0, TOKENS)
        inside = token < tokens
        dy = tl.load(dy_at + row * tokens + token, mask=inside, other=0.0).to(tl.float32)
        x = tl.load(
            x_at + x_offset[:, None] + token[None, :], mask=here[:, None] & inside[None, :], other=0.0
        ).to(tl.float32)  # fmt: skip
        products += dy[None, :] * x
    tl.store(gradient_at + place, tl.sum(products, axis=1), mask=here)


def launch_dots(dy: Tensor, x: Tensor, pattern: SparsePattern) -> Tensor:
    """Does what `sampled_gradient` does by one dot product an entry, accumulated in float32.

    Both operands are copied first, so that tokens are contiguous. A program reads a row of dY once for up to `CHUNK`
    entries, and a row of X^T for each entry. It is deterministic. `xlt_kernels.sparse_linear_costs` counts the bytes.
    """
    gradient = torch.zeros(len(pattern), dtype=torch.float32, device=dy.device)
    if len(pattern) and len(dy):
        starts = pattern.chunks(CHUNK)
        _dot_kernel[(len(starts),)](
            dy.t().contiguous(), x.t().contiguous(), pattern.indices, starts, gradient, len(pattern), pattern.columns,
            len(x), CHUNK=CHUNK, TOKENS=_TOKENS,
        )  # fmt: skip
    return gradient
