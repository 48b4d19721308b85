"""Time and peak memory of `select_most_changed` beside torch.topk and a Python list.

    python scripts/bench_select.py                                    # 20M entries, seconds
    python scripts/bench_select.py --entries 177139968 --repeats 5    # mBERT: 7.6M of 177M

Prints JSON, unless `--output` names a file for it: medians in seconds (wall and CPU), additional peak memory in bytes
(Linux; null elsewhere), and ratios to ours. composable-sft selects with a Python list. That takes long, so it is
measured on fewer entries (`--list-entries`), beside ours on as many.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from benchmark.memory import PeakMemory
from benchmark.report import CommandLine, machine, write_record
from benchmark.rounds import repeat
from benchmark.shapes import bert_tensors
from torch import Tensor
from xlt_kernels.select import select_most_changed

Tensors = dict[str, Tensor]
MATRICES = {
    name: shape for name, shape in bert_tensors("mbert").items() if len(shape) == 2 and "token_type" not in name
}
MBERT_ENTRIES = sum(rows * columns for rows, columns in MATRICES.values())
MBERT_DENSITY = 7.6e6 / MBERT_ENTRIES
_LARGEST = "backbone.embeddings.word_embeddings.weight"


def shapes_of(entries: int) -> dict[str, tuple[int, int]]:
    """The shapes of mBERT's matrices, with rows scaled so that there are about `entries` entries."""
    scale = entries / MBERT_ENTRIES
    return {name: (max(1, round(rows * scale)), columns) for name, (rows, columns) in MATRICES.items()}


def make_pair(entries: int, changes: str, seed: int = 0) -> tuple[Tensors, Tensors]:
    """Weights after and before training.

    Args:
        changes: "all": every entry changes, by normal amounts; "rows": of the word embeddings only every tenth row
            does; "none": nothing does, so that all entries tie.
    """
    generator = torch.Generator().manual_seed(seed)
    before = {name: torch.randn(shape, generator=generator) * 0.02 for name, shape in shapes_of(entries).items()}
    after = {name: tensor.clone() for name, tensor in before.items()}
    for name, tensor in after.items():
        if changes == "all" or (changes == "rows" and name != _LARGEST):
            tensor += torch.randn(tensor.shape, generator=generator) * 1e-4
        elif changes == "rows":
            tensor[::10] += torch.randn(tensor[::10].shape, generator=generator) * 1e-4
    return after, before


def by_topk(after: Tensors, before: Tensors, k: int) -> Tensors:
    """torch.topk over the concatenated changes; it orders ties as it likes."""
    flat = torch.cat([(a - before[n]).abs_().view(-1) for n, a in after.items()])
    chosen = torch.topk(flat, k, sorted=False).indices.sort().values
    starts = torch.tensor([0, *(a.numel() for a in after.values())]).cumsum(0)
    bounds = torch.searchsorted(chosen, starts).tolist()
    return {n: chosen[bounds[i] : bounds[i + 1]] - starts[i] for i, n in enumerate(after)}


def by_python_list(after: Tensors, before: Tensors, k: int) -> Tensors:
    """A Python list of all changes, a threshold, then a mask for each tensor, as in composable-sft."""
    changes: list[float] = []
    for name, a in after.items():
        changes.extend((a - before[name]).abs().view(-1).tolist())
    changes.sort(reverse=True)
    threshold = changes[k - 1]
    return {n: ((a - before[n]).abs() >= threshold).view(-1).nonzero().view(-1) for n, a in after.items()}


def measure(select: Callable[[], Any], repeats: int) -> dict[str, float | int | None]:
    """Median seconds over `repeats`, and by how many bytes the peak memory exceeded what was in use before."""
    cpu = []

    def select_and_note() -> None:
        started = time.process_time()
        select()
        cpu.append(time.process_time() - started)

    memory = PeakMemory()
    wall = repeat(select_and_note, repeats)
    extra = round(memory.grown_mib() * 2**20) if memory.exact else None
    return {"wall_seconds": statistics.median(wall), "cpu_seconds": statistics.median(cpu), "extra_peak_bytes": extra}


def compare(
    contenders: dict[str, Callable[[Tensors, Tensors, int], Tensors]], entries: int, options: argparse.Namespace
) -> dict[str, Any]:
    """The measurements of all contenders on one pair of models; the first is called "ours"."""
    after, before = make_pair(entries, options.changes)
    total = sum(tensor.numel() for tensor in after.values())
    k = options.k if options.k is not None else max(1, int(total * MBERT_DENSITY))
    report: dict[str, Any] = {"entries": total, "k": k}
    for name, select in contenders.items():
        repeats = 1 if select is by_python_list else options.repeats
        report[name] = measure(functools.partial(select, after, before, k), repeats)
        report[name]["wall_over_ours"] = report[name]["wall_seconds"] / report["ours"]["wall_seconds"]
    return report


def main() -> None:
    line = CommandLine(__doc__, repeats=3, threads=1)
    line.add_count("entries", 20_000_000, "entries of the model")
    line.add_count("k", None, "entries to select; default: 4.3%% of all, as 7.6M are of mBERT")
    line.add_count("list-entries", 2_000_000, "entries for the Python list; 0: without it", least=0)
    line.add_argument("--changes", choices=("all", "rows", "none"), default="all", help="which entries change")
    options = line.parse_args()
    torch.set_num_threads(options.threads)
    record = {
        "benchmark": "select",
        **machine(),
        "changes": options.changes,
        "repeats": options.repeats,
        "large": compare({"ours": select_most_changed, "torch_topk": by_topk}, options.entries, options),
    }
    if options.list_entries:
        contenders = {"ours": select_most_changed, "python_list": by_python_list}
        record["small"] = compare(contenders, options.list_entries, options)
    write_record(record, options.output, prints=options.output is None)


if __name__ == "__main__":
    main()
