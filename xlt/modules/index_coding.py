"""Encodes sorted indices as the gaps between them, which makes a sparse delta small on disk.

The gap before an index is the number of entries between it and the index before; the first gap counts from the tensor's
start. At density 4% the mean gap is 24, so most gaps fit into one byte. A gap that does not fit is an escape: the
largest code marks its place, and a second array holds its value. Each tensor uses the smallest of the codings uint8,
uint16 and plain integers; the dtype of its gaps says which.
"""

from typing import Any

import numpy as np
import torch

_CODE_DTYPES: tuple[np.dtype, ...] = (np.dtype(np.uint8), np.dtype(np.uint16))
_PLAIN_DTYPES: tuple[np.dtype, ...] = (np.dtype(np.int32), np.dtype(np.int64))


def encode_indices(indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Encodes sorted indices as gaps.

    Args:
        indices: (N,) int32 or int64 on the CPU, strictly ascending, not negative.
    Returns:
        gaps: (N,) uint8, uint16, int32 or int64, whichever takes fewest bytes including its escapes.
        escapes: (M,) int32 or int64, the gaps that did not fit into the code, in order; empty for plain integers.
    """
    gaps = np.diff(indices.numpy().astype(np.int64, copy=False), prepend=np.int64(-1)) - 1
    largest = int(gaps.max(initial=0))
    wide = _PLAIN_DTYPES[0] if largest <= np.iinfo(np.int32).max else _PLAIN_DTYPES[1]
    best, best_bytes = wide, gaps.size * wide.itemsize
    for code in reversed(_CODE_DTYPES):
        code_bytes = gaps.size * code.itemsize + int((gaps >= _escape_mark(code)).sum()) * wide.itemsize
        if code_bytes <= best_bytes:
            best, best_bytes = code, code_bytes
    if best is wide:
        return torch.from_numpy(gaps.astype(wide)), torch.from_numpy(np.empty(0, wide))
    escape_places = gaps >= _escape_mark(best)
    codes = np.minimum(gaps, _escape_mark(best)).astype(best)
    return torch.from_numpy(codes), torch.from_numpy(gaps[escape_places].astype(wide))


def decode_indices(gaps: torch.Tensor, escapes: torch.Tensor, total: int | None = None) -> torch.Tensor:
    """Decodes what `encode_indices` encoded.

    Args:
        gaps, escapes: (N,) and (M,), of the dtypes that `encode_indices` returns.
        total: entries of the tensor, None if unknown.
    Returns:
        (N,) int64, or int32 if `total` and the dtypes allow it. The caller must check their order and range, because a
        damaged file can contain any gaps; an index that is too large for int32 becomes negative, so out of order.
    Raises:
        ValueError: dtypes or dimensions are wrong, or the number of escapes is not that of the marks in `gaps`.
    """
    if gaps.ndim != 1 or escapes.ndim != 1:
        raise ValueError(f"gaps have {gaps.ndim} dimensions and escapes {escapes.ndim}: both must have one dimension")
    codes, wide = gaps.numpy(), escapes.numpy()
    if codes.dtype not in (*_CODE_DTYPES, *_PLAIN_DTYPES) or wide.dtype not in _PLAIN_DTYPES:
        raise ValueError(f"gaps have dtype {codes.dtype} and escapes {wide.dtype}: this index coding is unknown")
    narrow = total is not None and total <= np.iinfo(np.int32).max and np.int64 not in (codes.dtype, wide.dtype)
    steps: Any = codes.astype(np.int32 if narrow else np.int64)
    escape_places = (
        np.flatnonzero(codes == _escape_mark(codes.dtype)) if codes.dtype in _CODE_DTYPES else np.empty(0, np.int64)
    )
    if escape_places.size != wide.size:
        raise ValueError(
            f"there are {wide.size} escapes for {escape_places.size} marks in the gaps: the numbers must be equal"
        )
    steps[escape_places] = wide
    steps += 1
    if steps.size:
        steps[0] -= 1
    np.cumsum(steps, out=steps)
    return torch.from_numpy(steps)


def _escape_mark(code: np.dtype) -> int:
    return int(np.iinfo(code).max)
