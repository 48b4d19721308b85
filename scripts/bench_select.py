"""Times `select_most_changed` against torch.topk and a Python list, and takes the peak memory of each.

    python scripts/bench_select.py                                    # 20M entries, seconds
    python scripts/bench_select.py --entries 177139968 --repeats 5    # mBERT: 7.6M of 177M

Prints JSON: medians in seconds (wall and CPU), additional peak memory in bytes (Linux; null elsewhere), and ratios to
ours. The Python list, which is what composable-sft builds, runs on `--list-entries` and is compared with ours there.
"""

import argparse
import ctypes
import functools
import gc
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from xlt_kernels.select import select_most_changed

Tensors = dict[str, Tensor]
MBERT_ENTRIES = 177_139_968  # of the tensors below
MBERT_DENSITY = 7.6e6 / MBERT_ENTRIES


def mbert_shapes(entries: int) -> dict[str, tuple[int, int]]:
    """mBERT's matrices, their rows scaled so that there are about `entries` entries."""
    shapes = {"embeddings.word": (119547, 768), "embeddings.position": (512, 768)}
    for layer in range(12):
        for name in ("query", "key", "value", "output"):
            shapes[f"{layer}.attention.{name}"] = (768, 768)
        shapes[f"{layer}.intermediate"], shapes[f"{layer}.output"] = (3072, 768), (768, 3072)
    scale = entries / MBERT_ENTRIES
    return {name: (max(1, round(rows * scale)), columns) for name, (rows, columns) in shapes.items()}


def make_pair(entries: int, changes: str, seed: int = 0) -> tuple[Tensors, Tensors]:
    """Weights before and after. `changes`: all (normal), rows (of the embedding's rows only 1 in 10), none."""
    generator = torch.Generator().manual_seed(seed)
    before = {n: torch.randn(s, generator=generator) * 0.02 for n, s in mbert_shapes(entries).items()}
    after = {n: b.clone() for n, b in before.items()}
    for name, a in after.items():
        if changes == "all" or (changes == "rows" and name != "embeddings.word"):
            a += torch.randn(a.shape, generator=generator) * 1e-4
        elif changes == "rows":
            a[::10] += torch.randn(a[::10].shape, generator=generator) * 1e-4
    return after, before


def by_topk(after: Tensors, before: Tensors, k: int) -> Tensors:
    """torch.topk over the concatenated changes; ties as topk leaves them."""
    flat = torch.cat([(a - before[n]).abs_().view(-1) for n, a in after.items()])
    chosen = torch.topk(flat, k, sorted=False).indices.sort().values
    starts = torch.tensor([0, *(a.numel() for a in after.values())]).cumsum(0)
    bounds = torch.searchsorted(chosen, starts).tolist()
    return {n: chosen[bounds[i] : bounds[i + 1]] - starts[i] for i, n in enumerate(after)}


def by_python_list(after: Tensors, before: Tensors, k: int) -> Tensors:
    """A Python list of all changes, a threshold, then a mask a tensor, as in composable-sft."""
    changes: list[float] = []
    for name, a in after.items():
        changes.extend((a - before[name]).abs().view(-1).tolist())
    changes.sort(reverse=True)
    threshold = changes[k - 1]
    return {n: ((a - before[n]).abs() >= threshold).view(-1).nonzero().view(-1) for n, a in after.items()}


def _memory_bytes(field: str) -> int | None:
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    for line in status.read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return None


def _reset_peak() -> bool:
    """Gives freed memory back to the system and starts the peak anew; without the first, reuse would look free."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):  # not Linux with glibc
        return False
    return True


def measure(run: Callable[[], Any], repeats: int) -> dict[str, float | int | None]:
    """Median seconds over `repeats`, and the peak of resident memory over what was there before."""
    known = _reset_peak()
    resident = _memory_bytes("VmRSS")
    wall, cpu = [], []
    for _ in range(repeats):
        started, busy = time.perf_counter(), time.process_time()
        run()
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - busy)
    peak = _memory_bytes("VmHWM")
    extra = peak - resident if known and peak is not None and resident is not None else None
    return {"wall_seconds": statistics.median(wall), "cpu_seconds": statistics.median(cpu), "extra_peak_bytes": extra}


def compare(ways: dict[str, Callable[[Tensors, Tensors, int], Tensors]], entries: int, args: Any) -> dict[str, Any]:
    after, before = make_pair(entries, args.changes)
    total = sum(a.numel() for a in after.values())
    k = args.k if args.k is not None else max(1, int(total * MBERT_DENSITY))
    report: dict[str, Any] = {"entries": total, "k": k}
    for name, way in ways.items():
        repeats = 1 if way is by_python_list else args.repeats
        report[name] = measure(functools.partial(way, after, before, k), repeats)
        report[name]["wall_over_ours"] = report[name]["wall_seconds"] / report["ours"]["wall_seconds"]
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=20_000_000)
    parser.add_argument(
        "--k", type=int, default=None, help="entries to select; default: 4.3%% of all, as 7.6M of mBERT"
    )
    parser.add_argument("--list-entries", type=int, default=2_000_000, help="size for the Python list; 0 leaves it out")
    parser.add_argument("--changes", choices=("all", "rows", "none"), default="all")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=None, help="file for the JSON; default: standard output")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    report = {
        "benchmark": "select",
        "device": platform.processor() or platform.machine(),
        "threads": args.threads,
        "torch": torch.__version__,
        "changes": args.changes,
        "repeats": args.repeats,
        "large": compare({"ours": select_most_changed, "torch_topk": by_topk}, args.entries, args),
    }
    if args.list_entries:
        ways = {"ours": select_most_changed, "python_list": by_python_list}
        report["small"] = compare(ways, args.list_entries, args)
    text = json.dumps(report, indent=2)
    if args.output is not None:
        args.output.write_text(text + "\n")
    else:
        sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
