"""Triton kernels for the gradient at a linear layer's active entries.

One kernel computes a dot product per entry, for few entries; the other computes tiles of the dense product on the
tensor cores, for many.
"""

import os

import torch
import triton
import triton.language as tl
from torch import Tensor

from .sparse_pattern import SparsePattern

# Density below which dot products cost less than tiles. Tiles need 2 x tokens x rows x columns operations; a dot
# product reads 4 x tokens bytes per entry from the cache. The value is an estimate, not a measurement: if an H100's
# cache delivers 5 TB/s and its tensor cores 500 TFLOP/s, both cost the same at a density of 0.5%.
_DOT_DENSITY_LIMIT = 0.005
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # the interpreter's products of bfloat16 are wrong
_DOT_ENTRIES = 32
_DOT_TOKENS = 128
_TILE = 128
_TILE_TOKENS = 32
_GATHER_WIDTH = 8  # entries of a tile's row that are gathered at a time; with 16 more registers are spilled


@triton.jit
def _dot_kernel(
    dy_at, x_at, indices_at, gradient_at, entries, columns, tokens, ENTRIES: tl.constexpr, TOKENS: tl.constexpr
):
    place = tl.program_id(0).to(tl.int64) * ENTRIES + tl.arange(0, ENTRIES)
    here = place < entries
    index = tl.load(indices_at + place, mask=here, other=0).to(tl.int64)
    dy_offset, x_offset = index // columns * tokens, index % columns * tokens
    total = tl.zeros((ENTRIES,), tl.float32)
    for begin in range(0, tokens, TOKENS):
        token = begin + tl.arange(0, TOKENS)
        inside = here[:, None] & (token < tokens)[None, :]
        dy = tl.load(dy_at + dy_offset[:, None] + token[None, :], mask=inside, other=0.0).to(tl.float32)
        x = tl.load(x_at + x_offset[:, None] + token[None, :], mask=inside, other=0.0).to(tl.float32)
        total += tl.sum(dy * x, axis=1)
    tl.store(gradient_at + place, total, mask=here)


@triton.jit
def _tile_kernel(
    dy_at, x_at, indices_at, begins_at, gradient_at, rows, columns, tokens, dy_stride, x_stride, tiles_across,
    WIDEN: tl.constexpr, PRECISION: tl.constexpr, TILE: tl.constexpr, TOKENS: tl.constexpr, GATHER_WIDTH: tl.constexpr,
):  # fmt: skip
    down, across = tl.program_id(0) // tiles_across, tl.program_id(0) % tiles_across
    row, column = down * TILE + tl.arange(0, TILE), across * TILE + tl.arange(0, TILE)
    # In each row the tile's entries are consecutive; they end where those of the next tile begin.
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
        for at in range(0, most, GATHER_WIDTH):
            place = begin[:, None] + at + tl.arange(0, GATHER_WIDTH)[None, :]
            here = place < end[:, None]
            index = tl.load(indices_at + place, mask=here, other=0).to(tl.int64)
            local = tl.where(here, index - row[:, None].to(tl.int64) * columns - across * TILE, 0)
            tl.store(gradient_at + place, tl.gather(tile, local.to(tl.int32), axis=1), mask=here)


def launch_sampled_gradient(dy: Tensor, x: Tensor, pattern: SparsePattern) -> Tensor:
    """Does what `sampled_gradient` does, accumulated in float32.

    It is deterministic and needs no more memory than copies of the operands.
    """
    if len(pattern) < _DOT_DENSITY_LIMIT * pattern.rows * pattern.columns:
        return launch_dots(dy, x, pattern)
    return launch_tiles(dy, x, pattern)


def launch_dots(dy: Tensor, x: Tensor, pattern: SparsePattern) -> Tensor:
    """Computes one dot product over the tokens per entry, after copying both operands so that tokens are contiguous."""
    gradient = torch.zeros(len(pattern), dtype=torch.float32, device=dy.device)
    if len(pattern) and len(dy):
        _dot_kernel[(triton.cdiv(len(pattern), _DOT_ENTRIES),)](
            dy.t().contiguous(), x.t().contiguous(), pattern.indices, gradient, len(pattern), pattern.columns, len(x),
            ENTRIES=_DOT_ENTRIES, TOKENS=_DOT_TOKENS,
        )  # fmt: skip
    return gradient


def launch_tiles(dy: Tensor, x: Tensor, pattern: SparsePattern) -> Tensor:
    """Computes tiles of dY^T X on the tensor cores and gathers the entries from them in registers.

    Tiles without active entries are skipped; no tile is stored.
    """
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
        TILE=_TILE, TOKENS=_TILE_TOKENS, GATHER_WIDTH=_GATHER_WIDTH, num_warps=8, num_stages=3,
    )  # fmt: skip
    return gradient
