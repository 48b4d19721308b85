"""Times the weight gradient of a sparse linear layer at its entries against the whole dense product and a gather.

    python scripts/bench_sparse_linear.py
    python scripts/bench_sparse_linear.py --shapes 256x256 1024x256 --tokens 512 --repeats 21

Prints JSON: per shape and density the medians in milliseconds of `sampled_gradient` and of its peer (dY^T X, then
index_select), their ratio, that of a whole backward (with dx), and the cost of an entry by sampled dot products over
its cost by the dense product, which is `xlt_kernels.sparse_linear._SAMPLED_COST`.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from xlt_kernels.sparse_linear import sampled_gradient, sparse_linear
from xlt_kernels.sparse_pattern import SparsePattern


def medians(ways: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median milliseconds; the ways alternate, so that a slow moment of the machine meets all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            if turn > 0:  # the first call warms caches
                seconds[name].append(time.perf_counter() - started)
    return {name: 1e3 * statistics.median(times) for name, times in seconds.items()}


def measure(tokens: int, rows: int, columns: int, density: float, dtype: torch.dtype, repeats: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    entries = max(1, round(rows * columns * density))
    indices = torch.randperm(rows * columns, generator=generator)[:entries].sort().values
    pattern = SparsePattern.from_indices(indices, rows, columns)
    dy = torch.randn(tokens, rows, generator=generator).to(dtype)
    x = torch.randn(tokens, columns, generator=generator).to(dtype)
    weight = torch.randn(rows, columns, generator=generator).to(dtype)
    delta = torch.zeros(entries, requires_grad=True)
    x_leaf = x.clone().requires_grad_()
    y = sparse_linear(x_leaf, weight, None, delta, pattern)
    full = weight.clone().requires_grad_()
    y_full = nn.functional.linear(x_leaf, full)

    def dense_and_gather() -> Tensor:
        return (dy.t() @ x).view(-1).index_select(0, indices)

    def full_backward() -> Tensor:
        _, dense = torch.autograd.grad(y_full, (x_leaf, full), dy, retain_graph=True)
        return dense.view(-1).index_select(0, indices)

    times = medians(
        {
            "ours": lambda: sampled_gradient(dy, x, pattern),
            "dense_and_gather": dense_and_gather,
            "ours_backward": lambda: torch.autograd.grad(y, (x_leaf, delta), dy, retain_graph=True),
            "dense_backward": full_backward,
        },
        repeats,
    )
    return {
        "tokens": tokens,
        "rows": rows,
        "columns": columns,
        "density": density,
        "milliseconds": times,
        "ours_over_dense_and_gather": times["ours"] / times["dense_and_gather"],
        "backward_over_dense_backward": times["ours_backward"] / times["dense_backward"],
        "entry_cost_ratio": times["ours"] / times["dense_and_gather"] / density,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["768x768", "3072x768", "768x3072"], help="rows x columns")
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--densities", nargs="+", type=float, default=[0.0025, 0.01, 0.04, 0.1, 0.5])
    parser.add_argument("--entries", type=int, default=None, help="active entries a matrix, instead of --densities")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=None, help="file for the JSON; default: standard output")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results = []
    for shape in args.shapes:
        rows, columns = (int(size) for size in shape.split("x"))
        densities = args.densities if args.entries is None else [args.entries / (rows * columns)]
        dtype = getattr(torch, args.dtype)
        results += [measure(args.tokens, rows, columns, density, dtype, args.repeats) for density in densities]
    report = {
        "benchmark": "sparse_linear",
        "device": platform.processor() or platform.machine(),
        "threads": args.threads,
        "torch": torch.__version__,
        "dtype": args.dtype,
        "repeats": args.repeats,
        "results": results,
    }
    text = json.dumps(report, indent=2)
    if args.output is not None:
        args.output.write_text(text + "\n")
    else:
        sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
