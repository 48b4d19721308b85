"""What a sparse delta costs at mBERT size: selection, file size, save, load, apply, remove; time and peak memory.

    python scripts/bench_modules.py --output outputs/bench_modules.json

The model is random tensors of bert-base-multilingual-cased's shapes (177M entries); the delta is 7.6M of them,
uniformly chosen. Every measurement runs in its own process, on one thread; times are medians; peak memory is what the
process grew beyond what it held when the measurement began.

The peer is a re-implementation, in a few lines, of what cambridgeltl/composable-sft does (`src/sft/sft.py`, newest
version): a torch.save file with delta-coded indices as Python integers, sparse tensors added and subtracted. It is
here for the ratio on one machine, not as the peer's own code.
"""

import argparse
import json
import math
import multiprocessing
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from xlt_kernels.select import select_most_changed

from xlt.modules import Entries, ModuleHeader, ModuleStack, SparseDelta

ENTRIES = 7_600_000
DTYPES = {"float32": torch.float32, "float16": torch.float16}


def mbert_shapes(vocabulary: int = 119_547, hidden: int = 768, layers: int = 12) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a BERT encoder's tensors, as our models name them."""
    embeddings = "backbone.embeddings"
    shapes: dict[str, tuple[int, ...]] = {
        f"{embeddings}.word_embeddings.weight": (vocabulary, hidden),
        f"{embeddings}.position_embeddings.weight": (512, hidden),
        f"{embeddings}.token_type_embeddings.weight": (2, hidden),
        f"{embeddings}.LayerNorm.weight": (hidden,),
        f"{embeddings}.LayerNorm.bias": (hidden,),
    }
    for layer in range(layers):
        prefix = f"backbone.encoder.layer.{layer}"
        linear = {
            "attention.self.query": (hidden, hidden),
            "attention.self.key": (hidden, hidden),
            "attention.self.value": (hidden, hidden),
            "attention.output.dense": (hidden, hidden),
            "intermediate.dense": (4 * hidden, hidden),
            "output.dense": (hidden, 4 * hidden),
        }
        for name, shape in linear.items():
            shapes[f"{prefix}.{name}.weight"] = shape
            shapes[f"{prefix}.{name}.bias"] = shape[:1]
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes[f"{prefix}.{name}.weight"] = (hidden,)
            shapes[f"{prefix}.{name}.bias"] = (hidden,)
    return shapes


def random_model(seed: int = 0) -> nn.Module:
    """A tree of plain modules whose parameters have mBERT's names and shapes."""
    generator = torch.Generator().manual_seed(seed)
    root = nn.Module()
    for name, shape in mbert_shapes().items():
        *path, leaf = name.split(".")
        owner = root
        for part in path:
            if part not in dict(owner.named_children()):
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        owner.register_parameter(leaf, nn.Parameter(torch.empty(shape).normal_(0, 0.02, generator=generator)))
    return root


def random_delta(seed: int = 1) -> SparseDelta:
    """`ENTRIES` entries, uniform over the model."""
    generator = torch.Generator().manual_seed(seed)
    shapes = mbert_shapes()
    total = sum(math.prod(shape) for shape in shapes.values())
    entries, left = {}, ENTRIES
    for name, shape in shapes.items():
        numel = math.prod(shape)
        count = min(left, round(ENTRIES * numel / total))
        left -= count
        picked = torch.randint(numel, (count + count // 4 + 8,), generator=generator).unique()
        picked = picked[torch.randperm(picked.numel(), generator=generator)[:count]].sort().values
        entries[name] = Entries(picked, torch.randn(picked.numel(), generator=generator) * 0.01, shape)
    header = ModuleHeader(kind="sparse_delta", method="lt_sft", base_model="random", base_hash="none")
    return SparseDelta(header, entries)


def timed(action: Callable[[], object], repeats: int = 5) -> float:
    """Median seconds."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


class Growth:
    """Peak resident memory since construction, above what was resident then.

    Linux lets a process forget its past peak; elsewhere a peak during set-up hides smaller later ones.
    """

    def __init__(self) -> None:
        try:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
            self._start = self._status_mb("VmRSS")
        except OSError:
            self._start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    def mb(self) -> float:
        try:
            return self._status_mb("VmHWM") - self._start
        except OSError:
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - self._start

    @staticmethod
    def _status_mb(key: str) -> float:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{key}:"))


def measure_save(folder: Path, dtype: str) -> dict[str, float]:
    delta = random_delta()
    growth = Growth()
    seconds = timed(lambda: delta.save(folder / dtype, DTYPES[dtype]))
    return {"seconds": seconds, "peak_mb": growth.mb(), "file_mb": (folder / dtype).stat().st_size / 1e6}


def measure_load(folder: Path, dtype: str) -> dict[str, float]:
    growth = Growth()
    return {"seconds": timed(lambda: SparseDelta.load(folder / dtype)), "peak_mb": growth.mb()}


def measure_switch(folder: Path, dtype: str) -> dict[str, float]:
    model = random_model()
    stack, delta = ModuleStack(model), SparseDelta.load(folder / dtype)
    growth = Growth()
    apply, remove = [], []
    for _ in range(6):
        apply.append(timed(lambda: stack.apply(delta), repeats=1))
        remove.append(timed(lambda: stack.remove(delta), repeats=1))
    again = timed(lambda: stack.set([]), repeats=100)
    return {
        "apply_seconds": statistics.median(apply),
        "remove_seconds": statistics.median(remove),
        "unchanged_seconds": again,
        "peak_mb": growth.mb(),
    }


def _changed_models() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(2)
    before = {name: parameter.detach() for name, parameter in random_model().named_parameters()}
    after = {
        name: tensor + torch.empty_like(tensor).normal_(0, 1e-3, generator=generator) for name, tensor in before.items()
    }
    return after, before


def measure_select(folder: Path, dtype: str) -> dict[str, float]:
    after, base = _changed_models()
    growth = Growth()
    seconds = timed(lambda: select_most_changed(after, base, ENTRIES), repeats=3)
    return {"seconds": seconds, "peak_mb": growth.mb()}


def measure_topk(folder: Path, dtype: str) -> dict[str, float]:
    """The obvious alternative: one vector of all changes and `torch.topk`."""
    after, base = _changed_models()
    growth = Growth()

    def select() -> torch.Tensor:
        return torch.cat([(after[name] - base[name]).abs().flatten() for name in base]).topk(ENTRIES).indices

    return {"seconds": timed(select, repeats=1), "peak_mb": growth.mb()}


def _sparse(coordinates: np.ndarray, values: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.sparse_coo_tensor(torch.from_numpy(coordinates), values, shape, check_invariants=False).coalesce()


def _peer_sparse(delta: SparseDelta) -> dict[str, torch.Tensor]:
    sparse = {}
    for name, entries in delta.entries.items():
        assert entries.indices is not None
        coordinates = np.unravel_index(entries.indices.numpy(), tuple(entries.shape))
        sparse[name] = _sparse(np.stack(coordinates), entries.values, tuple(entries.shape))
    return sparse


def _peer_save(diffs: dict[str, torch.Tensor], path: Path) -> None:
    coded = {}
    for name, diff in diffs.items():
        strides = np.cumprod([1, *diff.shape[:-1]], dtype=np.int64)
        flat = strides @ diff.indices().numpy()
        order = sorted(range(len(flat)), key=lambda place, flat=flat: flat[place])  # type: ignore[misc]
        steps = np.diff(flat[order], prepend=0).tolist()
        coded[name] = {"size": diff.shape, "index_steps": steps, "values": diff.values()[order]}
    torch.save({"diffs": coded, "abs": {}}, path)


def _peer_load(path: Path) -> dict[str, torch.Tensor]:
    sparse = {}
    for name, coded in torch.load(path, weights_only=False)["diffs"].items():  # written by this script
        flat = np.cumsum(coded["index_steps"], dtype=np.int64)
        shape = tuple(coded["size"])
        coordinates = np.stack(np.unravel_index(flat, shape, order="F"))
        sparse[name] = _sparse(coordinates, coded["values"], shape)
    return sparse


def measure_peer_save(folder: Path, dtype: str) -> dict[str, float]:
    diffs = _peer_sparse(random_delta())
    growth = Growth()
    seconds = timed(lambda: _peer_save(diffs, folder / "peer"), repeats=1)
    return {"seconds": seconds, "peak_mb": growth.mb(), "file_mb": (folder / "peer").stat().st_size / 1e6}


def measure_peer_load(folder: Path, dtype: str) -> dict[str, float]:
    growth = Growth()
    return {"seconds": timed(lambda: _peer_load(folder / "peer"), repeats=1), "peak_mb": growth.mb()}


def measure_peer_switch(folder: Path, dtype: str) -> dict[str, float]:
    model = random_model()
    base = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    diffs = _peer_load(folder / "peer")

    @torch.no_grad()
    def change(sign: int) -> None:
        for name, diff in diffs.items():
            model.get_parameter(name).add_(diff, alpha=sign)

    apply, remove = [], []
    for _ in range(6):
        apply.append(timed(lambda: change(1), repeats=1))
        remove.append(timed(lambda: change(-1), repeats=1))
    wrong = sum(int((parameter != base[name]).sum()) for name, parameter in model.named_parameters())
    return {
        "apply_seconds": statistics.median(apply),
        "remove_seconds": statistics.median(remove),
        "entries_not_restored": wrong,
    }


def _in_child(connection: Any, measure: Callable[[Path, str], dict[str, float]], folder: Path, dtype: str) -> None:
    torch.set_num_threads(1)
    connection.send({key: round(value, 6) for key, value in measure(folder, dtype).items()})


def in_own_process(measure: Callable[[Path, str], dict[str, float]], folder: Path, dtype: str) -> dict[str, float]:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_in_child, args=(sender, measure, folder, dtype))
    process.start()
    sender.close()
    result: dict[str, float] = receiver.recv()
    process.join()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("outputs/bench_modules.json"))
    parser.add_argument("--without-peer", action="store_true", help="leave the peer and torch.topk out")
    arguments = parser.parse_args()
    plan: list[tuple[str, Callable[[Path, str], dict[str, float]], str]] = [
        (f"{name}_{dtype}", measure, dtype)
        for dtype in DTYPES
        for name, measure in (("save", measure_save), ("load", measure_load), ("switch", measure_switch))
    ]
    plan.append(("select", measure_select, ""))
    if not arguments.without_peer:
        plan.append(("select_topk", measure_topk, ""))
        plan.append(("peer_save", measure_peer_save, ""))
        plan.append(("peer_load", measure_peer_load, ""))
        plan.append(("peer_switch", measure_peer_switch, ""))
    results: dict[str, Any] = {
        "device": platform.processor() or platform.machine(),
        "threads": 1,
        "torch": torch.__version__,
        "entries": ENTRIES,
        "model_entries": sum(math.prod(shape) for shape in mbert_shapes().values()),
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, measure, dtype in plan:
            results[name] = in_own_process(measure, Path(folder), dtype)
            print(name, json.dumps(results[name]), flush=True)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
