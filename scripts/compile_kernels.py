"""Compiles every Triton kernel for GPUs, on a machine that need not have one, and says what each kernel needs.

    python scripts/compile_kernels.py --architectures 80 86 89 90 100 --output compile_kernels.json

The signatures are not listed anywhere: every launch function is called with tensors as the package would give it, and
what it hands to a kernel is compiled in place of being run. The record has for each kernel, signature and architecture
the registers of a thread, the bytes of shared memory of a program, the bytes of local memory to which registers are
spilled, and the counts of the loads of 16 bytes and of the instructions of the tensor cores.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)  # the interpreter does not check what the compiler checks

import torch
import triton
import triton.backends.nvidia
import xlt_kernels
from benchmark.report import CommandLine, settings, write_record
from rich.console import Console
from rich.table import Table
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction
from xlt_kernels.nf4_weight import Nf4Weight
from xlt_kernels.outer_topk_triton import Threshold
from xlt_kernels.sparse_pattern import SparsePattern

_TOOLS = Path(triton.backends.nvidia.__file__).parent / "bin"
_HALVES = (torch.bfloat16, torch.float16)
_FLOATS = (torch.float32, *_HALVES)
_INDICES = (torch.int32, torch.int64)
_TENSOR_CORES = re.compile(r"\b(?:mma\.sync|wgmma\.mma_async|tcgen05\.mma)")
_WIDE_LOADS = re.compile(r"ld\.global\S*\.(?:v4\.b32|v2\.b64)|cp\.async\S* .*, 0x10, ")


class Compiler:
    """Stands in for the GPU: what would be launched is compiled for an architecture.

    Attributes:
        architecture: compute capability times ten, for example 90.
        launches: kernel, its signature and the compiled kernel, of each launch so far.
    """

    def __init__(self, architecture: int) -> None:
        self.architecture = architecture
        self.launches: list[tuple[str, str, Any]] = []

    def __enter__(self) -> Compiler:
        self._before = JITFunction.__getitem__
        driver.set_active(self)
        JITFunction.__getitem__ = lambda kernel, grid: lambda *given, **named: self._launch(kernel, grid, given, named)
        return self

    def __exit__(self, *_: object) -> None:
        JITFunction.__getitem__ = self._before
        driver._active = None  # `reset_active` looks for a GPU

    def _launch(self, kernel: JITFunction[Any], grid: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        compiled = kernel.warmup(*given, grid=grid, **named)
        types = [_type(value) for value in given] + [f"{name}={_type(value)}" for name, value in named.items()]
        self.launches.append((kernel.__name__, " ".join(types), compiled))

    # What Triton asks of a driver.
    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.architecture, 32)

    def get_current_device(self) -> int:
        return self.architecture

    def get_current_stream(self, device: int | None = None) -> int:
        return 0


def _type(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"*{str(value.dtype).removeprefix('torch.')}"
    return type(value).__name__ if isinstance(value, float) else str(value)


def launch_functions() -> dict[str, Callable[..., Any]]:
    """Every function of the package that launches a kernel, by its name."""
    found: dict[str, Callable[..., Any]] = {}
    for module in pkgutil.iter_modules(xlt_kernels.__path__):
        if module.name.endswith("_triton"):
            names = vars(importlib.import_module(f"xlt_kernels.{module.name}"))
            found |= {name: value for name, value in names.items() if name.startswith("launch_") and callable(value)}
    return found


def _pattern(dtype: torch.dtype, rows: int = 256, columns: int = 384, every: int = 50) -> SparsePattern:
    pattern = SparsePattern.from_indices(torch.arange(0, rows * columns, every), rows, columns)
    names = ("indices", "crow", "col")
    return SparsePattern(rows, columns, *(getattr(pattern, name).to(dtype) for name in names))


def _write_delta() -> Iterator[tuple[Any, ...]]:
    for dtype in _FLOATS:
        for index in _INDICES:
            yield torch.zeros(64, 64, dtype=dtype), _ramp(index), torch.zeros(32, dtype=dtype), torch.zeros(32)


def _swap_delta() -> Iterator[tuple[Any, ...]]:
    for weight, indices, base, delta in _write_delta():
        yield weight, indices, base, indices + 1, delta


def _dequantise() -> Iterator[tuple[Any, ...]]:
    for dtype in _FLOATS:
        for nested in (False, True):
            double: dict[str, Any] = {}
            if nested:
                double = {"scale_code": torch.zeros(256), "scale_scales": torch.ones(1), "scale_block": 256}
                double["offset"] = torch.zeros(())
            scales = torch.zeros(128, dtype=torch.uint8) if nested else torch.zeros(128)
            packed = torch.zeros(4096, dtype=torch.uint8)
            weight = Nf4Weight(packed, torch.Size((64, 128)), dtype, torch.zeros(16), scales, 64, **double)
            yield weight, torch.zeros(64, 128, dtype=dtype), None, None
            for index in _INDICES:
                yield weight, torch.zeros(64, 128, dtype=dtype), _ramp(index), torch.zeros(32)


def _rows_gradient() -> Iterator[tuple[Any, ...]]:
    for dtype in _FLOATS:
        for index in _INDICES:
            yield torch.arange(16), torch.zeros(16, 384, dtype=dtype), _pattern(index), 0
    yield torch.arange(16), torch.zeros(16, 384), _pattern(torch.int32), None


def _counts() -> Iterator[tuple[Any, ...]]:
    for dtype in _FLOATS:
        yield torch.zeros(4096, dtype=dtype), torch.zeros(4096, dtype=dtype), 0, 16, 1 << 15
        yield torch.zeros(4096, dtype=dtype), torch.zeros((), dtype=dtype).expand(4096), 5 << 16, 0, 1 << 16
    for dtype in _HALVES:  # a weight in half precision against its base in float32, and the other way round
        yield torch.zeros(4096), torch.zeros(4096, dtype=dtype), 0, 16, 1 << 15
        yield torch.zeros(4096, dtype=dtype), torch.zeros(4096), 0, 16, 1 << 15


def _sm3_step() -> Iterator[tuple[Any, ...]]:
    for dtype in _FLOATS:
        for index in _INDICES:
            pattern = _pattern(index)
            size = len(pattern)
            gradient, rows, columns = torch.zeros(size, dtype=dtype), torch.zeros(256), torch.zeros(384)
            start = torch.zeros(size), gradient, pattern, rows, columns, 1e-3, 1e-8, 0.1
            for variant in ("I", "II"):
                yield *start, 0.0, None, variant
                yield *start, 0.9, torch.zeros(size), variant


def _products() -> Iterator[tuple[Any, ...]]:
    for dtype in _FLOATS:
        for index in _INDICES:
            yield torch.zeros(512, 256, dtype=dtype), torch.zeros(512, 384, dtype=dtype), _pattern(index)


def _threshold() -> Iterator[tuple[Any, ...]]:
    for rows in (64, 4096):  # less than a block, and several
        r, ordered = torch.zeros(rows, dtype=torch.float64), torch.zeros(256, dtype=torch.float64)
        for k in (5, 1 << 32):
            yield r, ordered, torch.zeros(rows + 1, dtype=torch.int64), torch.zeros(32, dtype=torch.int32), k


def _write() -> Iterator[tuple[Any, ...]]:
    for r, c, starts, places, _ in _threshold():
        slots = torch.zeros(3 * len(r), dtype=torch.int32)
        threshold = Threshold(slots, slots, starts, starts, starts)
        yield r, c, torch.zeros(256, dtype=torch.int32), starts, places, threshold, 0, len(r), torch.arange(3), 5


CALLS: dict[str, Callable[[], Iterator[tuple[Any, ...]]]] = {
    "launch_write_delta": _write_delta,
    "launch_swap_delta": _swap_delta,
    "launch_dequantise": _dequantise,
    "launch_rows_gradient": _rows_gradient,
    "launch_counts": _counts,
    "launch_sm3_step": _sm3_step,
    "launch_threshold": _threshold,
    "launch_write": _write,
    "launch_dots": _products,
}
"""Launch function -> the arguments of its calls, in every dtype that the package gives to it."""


def _ramp(dtype: torch.dtype) -> Tensor:
    return torch.arange(0, 64, 2, dtype=dtype)


def resources(cubin: bytes) -> dict[str, int]:
    """Registers of a thread, bytes of shared memory of a program, and bytes of local memory of a thread (spills)."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run(
            [str(_TOOLS / "cuobjdump"), "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    numbers = dict(re.findall(r"\b(REG|STACK|SHARED|LOCAL):(\d+)", text))
    return {
        "registers": int(numbers["REG"]),
        "static_shared_bytes": int(numbers["SHARED"]),
        "spilled_bytes": int(numbers["LOCAL"]) + int(numbers["STACK"]),
    }


def compile_all(architecture: int) -> list[dict[str, Any]]:
    """Compiles what every launch function launches.

    Raises:
        Exception: whatever the compiler raises; the line before says which call it was.
    """
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for name, function in launch_functions().items():
        for arguments in CALLS[name]():
            with Compiler(architecture) as compiler:
                function(*arguments)
            for kernel, signature, compiled in compiler.launches:
                ptx = compiled.asm["ptx"]
                rows[kernel, signature] = {
                    "architecture": architecture,
                    "kernel": kernel,
                    "signature": signature,
                    "warps": compiled.metadata.num_warps,
                    "shared_bytes": compiled.metadata.shared,
                    **resources(compiled.asm["cubin"]),
                    "loads_of_16_bytes": len(_WIDE_LOADS.findall(ptx)),
                    "tensor_core_instructions": len(_TENSOR_CORES.findall(ptx)),
                }
    return list(rows.values())


def main() -> None:
    command_line = CommandLine(__doc__)
    command_line.add_argument(
        "--architectures", type=int, nargs="+", default=[80, 86, 89, 90, 100], metavar="CC",
        help="compute capabilities times ten; default: %(default)s",
    )  # fmt: skip
    options = command_line.parse_args()
    if missing := launch_functions().keys() - CALLS.keys():
        command_line.error(f"CALLS: has no call of {', '.join(sorted(missing))}")
    started = time.perf_counter()
    rows = [row for architecture in options.architectures for row in compile_all(architecture)]
    table = Table("GPU", "kernel", "signatures", "registers", "shared", "spilled", "16-byte loads", "tensor cores")
    for architecture in options.architectures:
        for kernel in sorted({row["kernel"] for row in rows}):
            of_kernel = [row for row in rows if row["kernel"] == kernel and row["architecture"] == architecture]
            names = ("registers", "shared_bytes", "spilled_bytes", "loads_of_16_bytes", "tensor_core_instructions")
            spans = [_span([row[name] for row in of_kernel]) for name in names]
            table.add_row(f"sm_{architecture}", kernel, str(len(of_kernel)), *spans)
    Console().print(table)
    record = {"triton": triton.__version__, "seconds": time.perf_counter() - started, "kernels": rows}
    write_record({"settings": settings(options), **record}, options.output)


def _span(values: list[int]) -> str:
    return str(min(values)) if min(values) == max(values) else f"{min(values)} to {max(values)}"


if __name__ == "__main__":
    main()
