"""Peak memory of a part of a process."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
from pathlib import Path

import torch

# Environment of a process in which glibc returns each large tensor (128 KiB and more) to the system when it is freed:
# peak memory is then what tensors use, not what the allocator keeps. Allocation is slower, so it is not for timing.
RETURN_FREED_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "131072"}
_STATUS, _CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """The highest memory use since this object was made.

    On a GPU this is what torch allocated. On a CPU it is the resident set's high-water mark, which Linux can reset;
    freed memory is returned to the system first, since otherwise its reuse would not show.

    Attributes:
        start_mib: memory in use when this object was made.
        exact: False where the high-water mark cannot be reset (not Linux): `peak_mib` is then that of the whole
            process, and `grown_mib` is too small if more memory was in use before.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._device = torch.device(device)
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            self.exact = True
        else:
            _return_freed_memory()
            self.exact = _reset_high_water_mark()
        self.start_mib = self.peak_mib()

    def peak_mib(self) -> float:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / 2**20
        return _high_water_mark_mib()

    def grown_mib(self) -> float:
        """The peak above `start_mib`."""
        return self.peak_mib() - self.start_mib

    def record(self) -> dict[str, float]:
        return {"peak_mib": self.peak_mib(), "grown_mib": self.grown_mib()}


def private_mib() -> float:
    """Resident memory of this process without mapped file pages, which the system can take back (Linux)."""
    return _status_mib("RssAnon")


def _return_freed_memory() -> None:
    with contextlib.suppress(AttributeError, OSError):  # raised where the C library is not glibc
        ctypes.CDLL(None).malloc_trim(0)


def _reset_high_water_mark() -> bool:
    try:
        _CLEAR_REFS.write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _high_water_mark_mib() -> float:
    if _STATUS.exists():
        return _status_mib("VmHWM")
    import resource

    unit = 2**20 if sys.platform == "darwin" else 2**10  # macOS counts bytes, others KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _status_mib(field: str) -> float:
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) / 1024
    raise ValueError(f"{_STATUS}: has no line {field}")
