"""Growth of SpIEL-MA: finding the largest products r_i * c_j by bisection beside forming their matrix.

    python scripts/bench_outer_topk.py --rows 4096 --columns 11008 --output outer_topk.json

k is 20% of the active entries (density 1%), which are excluded. Each contender runs in a process of its own; time is
the median, memory is by how much the resident set's high-water mark grew (Linux). Forming the matrix writes and reads
rows x columns values; the bisection makes about 20 passes over rows x log2(columns) products and touches no matrix.
"""

from __future__ import annotations

import statistics
from typing import Any

import torch
from benchmark.memory import PeakMemory
from benchmark.process import in_own_process
from benchmark.report import CommandLine, machine, settings, write_record
from benchmark.rounds import repeat
from xlt_kernels.outer_topk import outer_topk

CONTENDERS = ("formed", "outer_topk")


def form_and_select(r: torch.Tensor, c: torch.Tensor, k: int, excluded: torch.Tensor) -> torch.Tensor:
    """The obvious way: the float32 matrix, active entries set to -1, torch.topk."""
    matrix = torch.outer(r, c).view(-1)
    matrix[excluded] = -1
    return matrix.topk(k).indices.sort().values


def measure(contender: str, rows: int, columns: int, density: float, repeats: int) -> dict[str, Any]:
    """Median seconds, MiB that the peak grew by, and the sum of the chosen products."""
    generator = torch.Generator().manual_seed(0)
    r, c = (torch.rand(n, generator=generator).square() * 1e-6 for n in (rows, columns))
    active = int(density * rows * columns)
    excluded = torch.randint(rows * columns, (active,), generator=generator).unique()
    k = active // 5
    chosen = torch.empty(0, dtype=torch.int64)

    def select() -> None:
        nonlocal chosen
        if contender == "formed":
            chosen = form_and_select(r, c, k, excluded)
        else:
            chosen, _ = outer_topk(r, c, k, excluded, torch.Generator().manual_seed(0))

    memory = PeakMemory()
    seconds = repeat(select, repeats)
    grown = memory.grown_mib()
    # Exact products can order differently what ties in float32, so the sums are compared, not the indices.
    products = (r[chosen // columns] * c[chosen % columns]).sort().values
    return {"seconds": statistics.median(seconds), "peak_mib": grown, "checksum": float(products.double().sum())}


def main() -> None:
    line = CommandLine(__doc__, repeats=5, threads=1)
    line.add_count("rows", 4096, "length of r")
    line.add_count("columns", 11008, "length of c")
    line.add_argument("--density", type=float, default=0.01, help="share of entries that are active")
    options = line.parse_args()
    torch.set_num_threads(options.threads)
    shape = (options.rows, options.columns, options.density, options.repeats)
    rows = {}
    for name in CONTENDERS:
        row = rows[name] = in_own_process(measure, name, *shape, threads=options.threads)
        print(f"{name:10} {row['seconds']:8.4f} s  {row['peak_mib']:8.0f} MiB  sum {row['checksum']:.9e}")
    ratio = rows["formed"]["seconds"] / rows["outer_topk"]["seconds"]
    print(f"outer_topk is {ratio:.1f} times as fast")
    write_record({**machine(), **settings(options), "rows": rows, "ratio": ratio}, options.output)


if __name__ == "__main__":
    main()
