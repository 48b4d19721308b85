"""Sorted indices as small gaps: what makes a sparse delta small on disk.

The gap before index i is the number of entries skipped since the one before it (the first counts from the tensor's
start). At density 4% gaps average 24, so most fit one byte. A gap that does not fit is an escape: the largest code
marks its place, and it stands in a second array. Per tensor the smallest of uint8, uint16 and plain integers is taken;
the dtype of the gaps says which.
"""

import numpy as np
import torch

_CODES: tuple[np.dtype, ...] = (np.dtype(np.uint8), np.dtype(np.uint16))
_PLAIN: tuple[np.dtype, ...] = (np.dtype(np.int32), np.dtype(np.int64))


def encode_indices(indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes sorted indices as gaps.

    Args:
        indices: (N,) int32 or int64 on the CPU, strictly increasing, not negative.
    Returns:
        gaps: (N,) uint8, uint16, int32 or int64, whichever is smallest with its escapes.
        escapes: (M,) int32 or int64, the gaps that the codes could not hold, in order; empty for plain gaps.
    """
    gaps = np.diff(indices.numpy().astype(np.int64, copy=False), prepend=np.int64(-1)) - 1
    largest = int(gaps.max(initial=0))
    wide = _PLAIN[0] if largest <= np.iinfo(np.int32).max else _PLAIN[1]
    best, best_bytes = wide, gaps.size * wide.itemsize
    for code in reversed(_CODES):
        code_bytes = gaps.size * code.itemsize + int((gaps >= _mark(code)).sum()) * wide.itemsize
        if code_bytes <= best_bytes:
            best, best_bytes = code, code_bytes
    if best is wide:
        return torch.from_numpy(gaps.astype(wide)), torch.from_numpy(np.empty(0, wide))
    escaped = gaps >= _mark(best)
    codes = np.minimum(gaps, _mark(best)).astype(best)
    return torch.from_numpy(codes), torch.from_numpy(gaps[escaped].astype(wide))


def decode_indices(gaps: torch.Tensor, escapes: torch.Tensor) -> torch.Tensor:
    """The inverse of `encode_indices`.

    Returns:
        (N,) int64. Their order and range are the caller's to check: a damaged file can hold anything.
    Raises:
        ValueError: wrong dtypes or ranks, or the escapes are not those that the gaps mark.
    """
    if gaps.ndim != 1 or escapes.ndim != 1:
        raise ValueError("coded indices must have one dimension")
    codes, wide = gaps.numpy(), escapes.numpy()
    if codes.dtype not in (*_CODES, *_PLAIN) or wide.dtype not in _PLAIN:
        raise ValueError(f"indices coded as {codes.dtype} with escapes in {wide.dtype} are unknown")
    steps = codes.astype(np.int64)
    escaped = np.flatnonzero(codes == _mark(codes.dtype)) if codes.dtype in _CODES else np.empty(0, np.int64)
    if escaped.size != wide.size:
        raise ValueError(f"{wide.size} escapes for the {escaped.size} marks of coded indices")
    steps[escaped] = wide
    steps += 1
    np.cumsum(steps, out=steps)
    steps -= 1
    return torch.from_numpy(steps)


def _mark(code: np.dtype) -> int:
    return int(np.iinfo(code).max)
