"""What the ways to compute the gradient at a linear layer's active entries cost on a GPU, and which is cheaper.

Counted for 4096 x 4096, 4096 tokens, bfloat16 and a density of 0.25% (41,943 entries); nothing of it is measured:

| design                                    | bytes from cache | operations | ms on an H200 | on an A100 |
|-------------------------------------------|------------------|------------|---------------|------------|
| a dot product for each entry              | 687 MB           | 0.3 G      | 0.15          | 0.24       |
| dot products grouped by row, chosen       | 399 MB           | 0.3 G      | 0.10          | 0.17       |
| the dense product, then a gather          | 34 MB, in memory | 137 G      | 0.19          | 0.57       |
| dense products into a slab, chosen        | 35 MB            | 137 G      | 0.18          | 0.56       |
| tiles of the dense product in registers   | none             | 137 G      | above 0.18    | above 0.56 |

Dot products include 134 MB from and to memory, 0.03 ms on an H200, for copies of both operands in which tokens are
contiguous; without the copies, 32 bytes would be read for each number. Tiles in registers save the slab's traffic, 4%
of the time at most, but a tile of sums and the indices of its entries need more registers than there are, so such a
kernel would have to reach the speed of cuBLAS while it spills. A slab keeps that speed, and there is no dense gradient.

By these numbers 16-bit dot products are cheaper below a density of 0.55% on an H200 and of 1.3% on an A100; in float32,
which has no tensor cores here, below 5% and 11%.
"""

import dataclasses
import functools

import torch

CHUNK = 16
"""Entries of one row that share one reading of the row of dY."""

SLAB_BYTES = 8 << 20
"""Of a slab of dW rows: enough tiles of 128 x 128 for all multiprocessors, and little enough to stay in the cache."""


@dataclasses.dataclass(frozen=True)
class Gpu:
    """What a GPU can do. These are estimates from data sheets and published measurements; a measurement replaces them.

    Attributes:
        half_operations, float_operations: in a second, of cuBLAS's products of 16-bit and of float32 operands.
        memory_bytes, cache_bytes: in a second, from memory and from the second-level cache.
    """

    half_operations: float
    float_operations: float
    memory_bytes: float
    cache_bytes: float


H200 = Gpu(half_operations=790e12, float_operations=50e12, memory_bytes=4.8e12, cache_bytes=5.5e12)
A100 = Gpu(half_operations=250e12, float_operations=17e12, memory_bytes=2.0e12, cache_bytes=4.0e12)


def dots_seconds(gpu: Gpu, entries: int, rows: int, columns: int, tokens: int, bytes_each: int) -> float:
    """Seconds for dot products grouped by row, with the copies that make tokens contiguous.

    Args:
        entries: active entries of the (rows, columns) weight.
        bytes_each: of an operand's number.
    """
    copied = 2 * tokens * (rows + columns) * bytes_each
    chunks = min(rows, entries) + entries // CHUNK
    return copied / gpu.memory_bytes + (entries + chunks) * tokens * bytes_each / gpu.cache_bytes


def slab_seconds(gpu: Gpu, entries: int, rows: int, columns: int, tokens: int, bytes_each: int) -> float:
    """Seconds for dense products into a slab, from which the entries are gathered in sectors of 32 bytes.

    Args:
        entries: active entries of the (rows, columns) weight.
        bytes_each: of the slab's and the operands' numbers.
    """
    rate = gpu.half_operations if bytes_each == 2 else gpu.float_operations
    written = rows * columns * bytes_each
    return 2 * tokens * rows * columns / rate + (written + min(32 * entries, written)) / gpu.cache_bytes


def prefers_dots(
    gpu: Gpu, entries: int, rows: int, columns: int, tokens: int, operand_bytes: int, slab_bytes: int
) -> bool:
    """Returns whether dot products are cheaper.

    The choice changes the order of summation. It depends on its arguments alone, so a resumed run ends in the same bits
    on a GPU of the same kind.
    """
    shape = (entries, rows, columns, tokens)
    return dots_seconds(gpu, *shape, operand_bytes) < slab_seconds(gpu, *shape, slab_bytes)


@functools.cache
def gpu_of(device: torch.device) -> Gpu:
    """Returns the numbers of the kind of GPU that is nearest to a device."""
    if device.type != "cuda":  # the interpreter
        return H200
    return A100 if torch.cuda.get_device_capability(device) < (9, 0) else H200
