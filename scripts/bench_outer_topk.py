"""Growth of SpIEL-MA: the largest r_i * c_j against forming the matrix.

    python scripts/bench_outer_topk.py --rows 4096 --columns 11008 --output outer_topk.json

k is 20% of the active entries (density 1%), which are excluded. Each way runs in a process of its own; time is the
median, memory what the resident set's high-water mark grew by (Linux). Forming the matrix writes and reads rows x
columns values; the bisection makes about 20 passes over rows x log2(columns) products and touches no matrix.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from bench_training import high_water_mark, reset_high_water_mark
from xlt_kernels.outer_topk import outer_topk


def formed(r: torch.Tensor, c: torch.Tensor, k: int, excluded: torch.Tensor) -> torch.Tensor:
    """The obvious way: float32 matrix, active entries set to -1, torch.topk."""
    matrix = torch.outer(r, c).view(-1)
    matrix[excluded] = -1
    return matrix.topk(k).indices.sort().values


def measure(way: str, rows: int, columns: int, density: float, repeats: int, threads: int) -> dict[str, Any]:
    """Seconds of each repeat, and MiB that the peak grew by."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    r, c = (torch.rand(n, generator=generator).square() * 1e-6 for n in (rows, columns))
    active = int(density * rows * columns)
    excluded = torch.randint(rows * columns, (active,), generator=generator).unique()
    k = active // 5
    reset_high_water_mark()
    before, seconds, found = high_water_mark(), [], torch.empty(0)
    for _ in range(repeats):
        started = time.perf_counter()
        if way == "formed":
            found = formed(r, c, k, excluded)
        else:
            found, _ = outer_topk(r, c, k, excluded, torch.Generator().manual_seed(0))
        seconds.append(time.perf_counter() - started)
    # Products that tie in float32 may be ordered otherwise by the exact ones: compare what was chosen by value.
    chosen = (r[found // columns] * c[found % columns]).sort().values
    return {"seconds": seconds, "peak_mib": high_water_mark() - before, "checksum": float(chosen.double().sum())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--columns", type=int, default=11008)
    parser.add_argument("--density", type=float, default=0.01)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=None)
    parser.add_argument("--one", choices=["formed", "outer_topk"], default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    shape = (options.rows, options.columns, options.density, options.repeats, options.threads)
    if options.one is not None:
        print(json.dumps(measure(options.one, *shape)))
        return
    rows = {}
    for way in ("formed", "outer_topk"):
        command = [sys.executable, __file__, *sys.argv[1:], "--one", way]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        rows[way] = {**found, "seconds": statistics.median(found["seconds"])}
        print(f"{way:10} {rows[way]['seconds']:8.4f} s  {rows[way]['peak_mib']:8.0f} MiB  sum {found['checksum']:.9e}")
    ratio = rows["formed"]["seconds"] / rows["outer_topk"]["seconds"]
    print(f"outer_topk is {ratio:.1f} times as fast")
    record = {
        "device": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        **{name: value for name, value in vars(options).items() if name not in ("output", "one")},
        "rows": rows,
        "ratio": ratio,
    }
    if options.output is not None:
        options.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
