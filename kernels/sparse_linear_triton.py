"""The gradient at a linear layer's active entries on a GPU: dot products for few, tiles of tensor cores for many."""

import os

import torch
import triton
import triton.language as tl
from torch import Tensor

from .sparse_linear import SparsePattern

# Density below which dot products cost less than tiles. Tiles do the whole product, 2 x tokens x rows x columns
# operations; dot products read 4 x tokens bytes an entry from the cache. An estimate, not yet a measurement: where an
# H100's cache gives 5 TB/s and its tensor cores 500 TFLOP/s, the two meet at 0.5%.
_FEW = 0.005
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # whose products of bfloat16 are wrong
_DOT_ENTRIES = 32
_DOT_TOKENS = 128
_TILE = 128
_TILE_TOKENS = 32
_GATHERED = 16  # entries of a tile's row that are gathered together


@triton.jit
def _dot_kernel(
    dy_at, x_at, indices_at, gradient_at, entries, columns, tokens, ENTRIES: tl.constexpr, TOKENS: tl.constexpr
):
    place = tl.program_id(0).to(tl.int64) * ENTRIES + tl.arange(0, ENTRIES)
    here = place < entries
    index = tl.load(indices_at + place, mask=here, other=0).to(tl.int64)
    of_dy, of_x = index // columns * tokens, index % columns * tokens
    total = tl.zeros((ENTRIES,), tl.float32)
    for begin in range(0, tokens, TOKENS):
        token = begin + tl.arange(0, TOKENS)
        inside = here[:, None] & (token < tokens)[None, :]
        dy = tl.load(dy_at + of_dy[:, None] + token[None, :], mask=inside, other=0.0).to(tl.float32)
        x = tl.load(x_at + of_x[:, None] + token[None, :], mask=inside, other=0.0).to(tl.float32)
        total += tl.sum(dy * x, axis=1)
    tl.store(gradient_at + place, total, mask=here)


@triton.jit
def _tile_kernel(
    dy_at, x_at, indices_at, begins_at, gradient_at, rows, columns, tokens, dy_stride, x_stride, tiles_across,
    WIDEN: tl.constexpr, PRECISION: tl.constexpr, TILE: tl.constexpr, TOKENS: tl.constexpr, GATHERED: tl.constexpr,
):  # fmt: skip
    down, across = tl.program_id(0) // tiles_across, tl.program_id(0) % tiles_across
    row, column = down * TILE + tl.arange(0, TILE), across * TILE + tl.arange(0, TILE)
    # The tile's entries in each row stand one after the other: from here up to the next tile's first.
    border = row.to(tl.int64) * (tiles_across + 1) + across
    begin = tl.load(begins_at + border, mask=row < rows, other=0).to(tl.int64)
    end = tl.load(begins_at + border + 1, mask=row < rows, other=0).to(tl.int64)
    most = tl.max(end - begin, axis=0)
    if most > 0:
        tile = tl.zeros((TILE, TILE), tl.float32)
        for first in range(0, tokens, TOKENS):
            token = (first + tl.arange(0, TOKENS)).to(tl.int64)
            dy = tl.load(
                dy_at + token[None, :] * dy_stride + row[:, None],
                mask=(token < tokens)[None, :] & (row < rows)[:, None],
                other=0.0,
            )
            x = tl.load(
                x_at + token[:, None] * x_stride + column[None, :],
                mask=(token < tokens)[:, None] & (column < columns)[None, :],
                other=0.0,
            )
            if WIDEN:
                dy, x = dy.to(tl.float32), x.to(tl.float32)
            tile = tl.dot(dy, x, tile, input_precision=PRECISION)
        for at in range(0, most, GATHERED):
            place = begin[:, None] + at + tl.arange(0, GATHERED)[None, :]
            here = place < end[:, None]
            index = tl.load(indices_at + place, mask=here, other=0).to(tl.int64)
            local = tl.where(here, index - row[:, None].to(tl.int64) * columns - across * TILE, 0)
            tl.store(gradient_at + place, tl.gather(tile, local.to(tl.int32), axis=1), mask=here)


def launch_sampled_gradient(dy: Tensor, x: Tensor, pattern: SparsePattern) -> Tensor:
    """As `sampled_gradient`, accumulated in float32; deterministic, and no more memory than copies of the operands."""
    if len(pattern) < _FEW * pattern.rows * pattern.columns:
        return launch_dots(dy, x, pattern)
    return launch_tiles(dy, x, pattern)


def launch_dots(dy: Tensor, x: Tensor, pattern: SparsePattern) -> Tensor:
    """A dot product over tokens an entry; both operands are first copied with tokens contiguous."""
    gradient = torch.zeros(len(pattern), dtype=torch.float32, device=dy.device)
    if len(pattern) and len(dy):
        _dot_kernel[(triton.cdiv(len(pattern), _DOT_ENTRIES),)](
            dy.t().contiguous(), x.t().contiguous(), pattern.indices, gradient, len(pattern), pattern.columns, len(x),
            ENTRIES=_DOT_ENTRIES, TOKENS=_DOT_TOKENS,
        )  # fmt: skip
    return gradient


def launch_tiles(dy: Tensor, x: Tensor, pattern: SparsePattern) -> Tensor:
    """Tiles of dY^T X on the tensor cores, gathered from in registers and thrown away; empty tiles are passed over."""
    gradient = torch.zeros(len(pattern), dtype=torch.float32, device=dy.device)
    if len(pattern) == 0 or len(dy) == 0:
        return gradient
    dtype = torch.promote_types(dy.dtype, x.dtype)
    dy, x = dy.to(dtype).contiguous(), x.to(dtype).contiguous()
    across = triton.cdiv(pattern.columns, _TILE)
    _tile_kernel[(triton.cdiv(pattern.rows, _TILE) * across,)](
        dy, x, pattern.indices, pattern.borders(_TILE), gradient, pattern.rows, pattern.columns, len(x),
        dy.stride(0), x.stride(0), across,
        WIDEN=_INTERPRETED, PRECISION="ieee" if dtype == torch.float32 else "tf32",
        TILE=_TILE, TOKENS=_TILE_TOKENS, GATHERED=_GATHERED, num_warps=8, num_stages=3,
    )  # fmt: skip
    return gradient
