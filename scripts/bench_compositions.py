"""Ranking compositions: weighted sums of two sparse modules in a model of mBERT's size, one after the other.

    python scripts/bench_compositions.py --output outputs/bench_compositions.json

The two modules have 7.6M entries each (`--size`: another model, the same share). For each of `--compositions` pairs of
weights the model gets their sum; only the weights change, so nothing is loaded and the union of the entries is found
once. At the end the sum is removed, and the model must have every bit that it had. For comparison, a few sums are
computed as modules of their own (`sum_deltas`) and applied through a stack. On one thread.
"""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import torch
from bench_modules import random_delta, random_model
from benchmark.memory import PeakMemory
from benchmark.process import in_own_process
from benchmark.report import CommandLine, machine, write_record
from benchmark.shapes import ENCODERS
from torch import nn

from xlt.modules import ModuleStack, SparseDelta
from xlt.modules.composition.reweighted import ReweightedSum
from xlt.modules.composition.sum import sum_deltas

_FIRST = 10  # compositions before memory counts as settled


def digest(model: nn.Module) -> str:
    """Returns a digest of every bit of a model's weights."""
    whole = hashlib.blake2b()
    for parameter in model.parameters():
        whole.update(parameter.detach().contiguous().view(torch.uint8).numpy().data)
    return whole.hexdigest()


def measure(size: str, compositions: int, whole: int) -> dict[str, Any]:
    """Measures `compositions` sums in place, and `whole` sums as modules of their own."""
    model = random_model(size)
    first, second = random_delta(size, 1), random_delta(size, 2)
    before, stack = digest(model), ModuleStack(model)
    began = time.perf_counter()
    total = ReweightedSum([first, second])
    stack.apply(total)
    prepared = time.perf_counter() - began
    draw = torch.Generator().manual_seed(0)
    weights = (torch.rand(compositions, 2, generator=draw) * 2).tolist()
    began = time.perf_counter()
    memory: PeakMemory | None = None
    for number, pair in enumerate(weights):
        if number == min(_FIRST, compositions - 1):
            memory = PeakMemory()
        total.set(pair)
    seconds = time.perf_counter() - began
    assert memory is not None
    grown, in_place = memory.grown_mib(), digest(model)
    stack.remove(total)
    restored = digest(model) == before
    began = time.perf_counter()
    module = None
    for pair in weights[-whole:]:
        module = sum_deltas([first, second], pair)
        stack.set([module])
    of_its_own = (time.perf_counter() - began) / whole
    same = digest(model) == in_place
    stack.set([])
    assert isinstance(module, SparseDelta)
    entries = module.num_entries
    return {
        "entries": [first.num_entries, second.num_entries],
        "entries_of_sum": entries,
        "compositions": compositions,
        "prepare_seconds": round(prepared, 4),
        "seconds": round(seconds, 4),
        "seconds_each": round(seconds / compositions, 6),
        "entries_a_minute": round(entries * compositions / seconds * 60),
        "grown_mib": round(grown, 2),
        "sum_of_its_own_seconds_each": round(of_its_own, 6),
        "last_sum_has_the_same_bits": same,
        "base_restored_to_the_bit": restored,
    }


def main() -> None:
    line = CommandLine(__doc__)
    line.set_defaults(output=Path("outputs/bench_compositions.json"))
    line.add_argument("--size", choices=ENCODERS, default="mbert", help="of the model; default: %(default)s")
    line.add_count("compositions", 1000, "pairs of weights")
    line.add_count("whole", 3, "sums that are also computed as modules of their own")
    options = line.parse_args()
    torch.set_num_threads(1)
    measured = in_own_process(measure, options.size, options.compositions, options.whole)
    record = {**machine(), "size": options.size, **measured}
    print(json.dumps(measured), flush=True)
    write_record(record, options.output)


if __name__ == "__main__":
    main()
