"""Times the gradient of a sparse linear layer's entries beside the whole dense product and a gather.

    python scripts/bench_sparse_linear.py
    python scripts/bench_sparse_linear.py --shapes 256x256 1024x256 --tokens 512 --repeats 21

Prints JSON, unless `--output` names a file for it. For each shape and density it has medians in milliseconds of
`sampled_gradient` and of its peer (dY^T X, then index_select), their ratio, and the ratio of whole backward passes
(with the gradient to the input). `entry_cost_ratio` is the cost of an entry by a sampled dot product, relative to its
cost in the dense product; `xlt_kernels.sparse_linear._SAMPLED_COST` holds this number.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import torch
from benchmark.report import CommandLine, machine, write_record
from benchmark.rounds import in_turn
from torch import Tensor, nn
from xlt_kernels.sparse_linear import sampled_gradient, sparse_linear
from xlt_kernels.sparse_pattern import SparsePattern


def measure(tokens: int, rows: int, columns: int, density: float, dtype: torch.dtype, repeats: int) -> dict[str, Any]:
    """The contenders' times for one weight matrix, (rows, columns)."""
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

    contenders = {
        "ours": lambda: sampled_gradient(dy, x, pattern),
        "dense_and_gather": dense_and_gather,
        "ours_backward": lambda: torch.autograd.grad(y, (x_leaf, delta), dy, retain_graph=True),
        "dense_backward": full_backward,
    }
    times = {name: 1e3 * statistics.median(seconds) for name, seconds in in_turn(contenders, repeats).items()}
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


def _shape(word: str) -> tuple[int, int]:
    rows, _, columns = word.partition("x")
    if not (rows.isdigit() and columns.isdigit() and int(rows) and int(columns)):
        raise argparse.ArgumentTypeError(f"{word}: must be ROWSxCOLUMNS, for instance 768x768")
    return int(rows), int(columns)


def main() -> None:
    line = CommandLine(__doc__, tokens=1024, repeats=9, threads=1)
    shapes = [(768, 768), (3072, 768), (768, 3072)]
    line.add_argument("--shapes", nargs="+", type=_shape, default=shapes, metavar="ROWSxCOLUMNS", help="of the weights")
    densities = [0.0025, 0.01, 0.04, 0.1, 0.5]
    line.add_argument("--densities", nargs="+", type=float, default=densities, help="shares of entries that are active")
    line.add_count("entries", None, "active entries of each matrix, instead of --densities")
    line.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of weights and activations")
    options = line.parse_args()
    torch.set_num_threads(options.threads)
    dtype = getattr(torch, options.dtype)
    results = []
    for rows, columns in options.shapes:
        densities = options.densities if options.entries is None else [options.entries / (rows * columns)]
        results += [measure(options.tokens, rows, columns, density, dtype, options.repeats) for density in densities]
    record = {
        "benchmark": "sparse_linear",
        **machine(),
        "dtype": options.dtype,
        "repeats": options.repeats,
        "results": results,
    }
    write_record(record, options.output, prints=options.output is None)


if __name__ == "__main__":
    main()
