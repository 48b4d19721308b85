"""What a sparse delta costs at mBERT's size: selection, file size, save, load, apply, remove; time and peak memory.

    python scripts/bench_modules.py --output outputs/bench_modules.json

The model consists of random tensors with the shapes of bert-base-multilingual-cased (177M entries); the delta has 7.6M
entries, uniformly chosen (`--size`: another model, the same share). Every measurement runs in its own process, on one
thread; times are medians; peak memory is what the process grew beyond what it held when the measurement began.

The peer is a re-implementation, in a few lines, of what cambridgeltl/composable-sft does (`src/sft/sft.py`, newest
version): a torch.save file with delta-coded indices as Python integers, sparse tensors added and subtracted. It serves
for the ratio on one machine; it is not the peer's own code.
"""

from __future__ import annotations

import json
import math
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmark.memory import PeakMemory
from benchmark.process import in_own_process
from benchmark.report import CommandLine, machine, write_record
from benchmark.rounds import repeat
from benchmark.shapes import ENCODERS, bert_config, bert_tensors
from torch import nn
from xlt_kernels.select import select_most_changed

from xlt.modules import Entries, ModuleHeader, ModuleStack, SparseDelta

MBERT_ENTRIES = 7_600_000  # of the delta
DTYPES = {"float32": torch.float32, "float16": torch.float16}
Measure = Callable[[Path, str, str], dict[str, float]]
"""(folder for files, dtype of the saved values, size of the model) -> numbers."""


def count(size: str) -> int:
    """Entries of a model; `size` is a key of `ENCODERS`, here and below."""
    return sum(math.prod(shape) for shape in bert_tensors(size).values())


def delta_entries(size: str) -> int:
    """Entries of the delta: of every model the same share, 4.3%."""
    return round(MBERT_ENTRIES * count(size) / count("mbert"))


def random_model(size: str, seed: int = 0) -> nn.Module:
    """A BERT encoder with normal weights."""
    from transformers import BertModel

    generator = torch.Generator().manual_seed(seed)
    model = nn.Module()
    model.backbone = BertModel(bert_config(size), add_pooling_layer=False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.02, generator=generator)
    return model


def random_delta(size: str, seed: int = 1) -> SparseDelta:
    """`delta_entries` entries, uniform over the model."""
    generator = torch.Generator().manual_seed(seed)
    total, chosen = count(size), delta_entries(size)
    entries, left = {}, chosen
    for name, shape in bert_tensors(size).items():
        numel = math.prod(shape)
        share = min(left, round(chosen * numel / total))
        left -= share
        picked = torch.randint(numel, (share + share // 4 + 8,), generator=generator).unique()
        picked = picked[torch.randperm(picked.numel(), generator=generator)[:share]].sort().values
        entries[name] = Entries(picked, torch.randn(picked.numel(), generator=generator) * 0.01, shape)
    header = ModuleHeader(kind="sparse_delta", method="lt_sft", base_model="random", base_hash="none")
    return SparseDelta(header, entries)


def median_seconds(action: Callable[[], object], repeats: int = 5) -> float:
    return statistics.median(repeat(action, repeats))


def switch_seconds(apply: Callable[[], object], remove: Callable[[], object], repeats: int = 6) -> dict[str, float]:
    """Median seconds of applying and of removing a delta, one after the other."""
    pairs = [(*repeat(apply, 1), *repeat(remove, 1)) for _ in range(repeats)]
    applying, removing = zip(*pairs, strict=True)
    return {"apply_seconds": statistics.median(applying), "remove_seconds": statistics.median(removing)}


def measure_save(folder: Path, dtype: str, size: str) -> dict[str, float]:
    delta = random_delta(size)
    memory = PeakMemory()
    seconds = median_seconds(lambda: delta.save(folder / dtype, DTYPES[dtype]))
    return {"seconds": seconds, "peak_mb": memory.grown_mib(), "file_mb": (folder / dtype).stat().st_size / 1e6}


def measure_load(folder: Path, dtype: str, size: str) -> dict[str, float]:
    memory = PeakMemory()
    return {"seconds": median_seconds(lambda: SparseDelta.load(folder / dtype)), "peak_mb": memory.grown_mib()}


def measure_switch(folder: Path, dtype: str, size: str) -> dict[str, float]:
    model = random_model(size)
    stack, delta = ModuleStack(model), SparseDelta.load(folder / dtype)
    memory = PeakMemory()
    seconds = switch_seconds(lambda: stack.apply(delta), lambda: stack.remove(delta))
    unchanged = median_seconds(lambda: stack.set([]), repeats=100)
    return {**seconds, "unchanged_seconds": unchanged, "peak_mb": memory.grown_mib()}


def _changed_models(size: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(2)
    before = {name: parameter.detach() for name, parameter in random_model(size).named_parameters()}
    after = {
        name: tensor + torch.empty_like(tensor).normal_(0, 1e-3, generator=generator) for name, tensor in before.items()
    }
    return after, before


def measure_select(folder: Path, dtype: str, size: str) -> dict[str, float]:
    after, base = _changed_models(size)
    memory = PeakMemory()
    seconds = median_seconds(lambda: select_most_changed(after, base, delta_entries(size)), repeats=3)
    return {"seconds": seconds, "peak_mb": memory.grown_mib()}


def measure_topk(folder: Path, dtype: str, size: str) -> dict[str, float]:
    """The obvious alternative: one vector of all changes and `torch.topk`."""
    after, base = _changed_models(size)
    memory = PeakMemory()

    def select() -> torch.Tensor:
        changes = torch.cat([(after[name] - base[name]).abs().flatten() for name in base])
        return changes.topk(delta_entries(size)).indices

    return {"seconds": median_seconds(select, repeats=1), "peak_mb": memory.grown_mib()}


def _sparse(coordinates: np.ndarray, values: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.sparse_coo_tensor(torch.from_numpy(coordinates), values, shape, check_invariants=False).coalesce()


def peer_sparse(delta: SparseDelta) -> dict[str, torch.Tensor]:
    sparse = {}
    for name, entries in delta.entries.items():
        assert entries.indices is not None
        coordinates = np.unravel_index(entries.indices.numpy(), tuple(entries.shape))
        sparse[name] = _sparse(np.stack(coordinates), entries.values, tuple(entries.shape))
    return sparse


def peer_save(diffs: dict[str, torch.Tensor], path: Path) -> None:
    coded = {}
    for name, diff in diffs.items():
        strides = np.cumprod([1, *diff.shape[:-1]], dtype=np.int64)
        flat = strides @ diff.indices().numpy()
        order = sorted(range(len(flat)), key=lambda place, flat=flat: flat[place])  # type: ignore[misc]
        steps = np.diff(flat[order], prepend=0).tolist()
        coded[name] = {"size": diff.shape, "index_steps": steps, "values": diff.values()[order]}
    torch.save({"diffs": coded, "abs": {}}, path)


def peer_load(path: Path) -> dict[str, torch.Tensor]:
    sparse = {}
    for name, coded in torch.load(path, weights_only=False)["diffs"].items():  # written by this script
        flat = np.cumsum(coded["index_steps"], dtype=np.int64)
        shape = tuple(coded["size"])
        coordinates = np.stack(np.unravel_index(flat, shape, order="F"))
        sparse[name] = _sparse(coordinates, coded["values"], shape)
    return sparse


def measure_peer_save(folder: Path, dtype: str, size: str) -> dict[str, float]:
    diffs = peer_sparse(random_delta(size))
    memory = PeakMemory()
    seconds = median_seconds(lambda: peer_save(diffs, folder / "peer"), repeats=1)
    return {"seconds": seconds, "peak_mb": memory.grown_mib(), "file_mb": (folder / "peer").stat().st_size / 1e6}


def measure_peer_load(folder: Path, dtype: str, size: str) -> dict[str, float]:
    memory = PeakMemory()
    return {"seconds": median_seconds(lambda: peer_load(folder / "peer"), repeats=1), "peak_mb": memory.grown_mib()}


def measure_peer_switch(folder: Path, dtype: str, size: str) -> dict[str, float]:
    model = random_model(size)
    base = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    diffs = peer_load(folder / "peer")

    @torch.no_grad()
    def change(sign: int) -> None:
        for name, diff in diffs.items():
            model.get_parameter(name).add_(diff, alpha=sign)

    seconds = switch_seconds(lambda: change(1), lambda: change(-1))
    wrong = sum(int((parameter != base[name]).sum()) for name, parameter in model.named_parameters())
    return {**seconds, "entries_not_restored": wrong}


def main() -> None:
    line = CommandLine(__doc__)
    line.set_defaults(output=Path("outputs/bench_modules.json"))
    line.add_argument("--size", choices=ENCODERS, default="mbert", help="of the model; default: %(default)s")
    line.add_argument("--without-peer", action="store_true", help="measure neither the peer nor torch.topk")
    options = line.parse_args()
    torch.set_num_threads(1)
    plan: list[tuple[str, Measure, str]] = [
        (f"{name}_{dtype}", measure, dtype)
        for dtype in DTYPES
        for name, measure in (("save", measure_save), ("load", measure_load), ("switch", measure_switch))
    ]
    plan.append(("select", measure_select, ""))
    if not options.without_peer:
        plan.append(("select_topk", measure_topk, ""))
        plan.append(("peer_save", measure_peer_save, ""))
        plan.append(("peer_load", measure_peer_load, ""))
        plan.append(("peer_switch", measure_peer_switch, ""))
    size = options.size
    record: dict[str, Any] = {**machine(), "entries": delta_entries(size), "model_entries": count(size)}
    with tempfile.TemporaryDirectory() as folder:
        for name, measure, dtype in plan:
            measured = in_own_process(measure, Path(folder), dtype, size)
            record[name] = {key: round(value, 6) for key, value in measured.items()}
            print(name, json.dumps(record[name]), flush=True)
    write_record(record, options.output)


if __name__ == "__main__":
    main()
