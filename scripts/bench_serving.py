"""What it costs to annotate sentences of many languages at once, each with the module of its own language.

    python scripts/bench_serving.py --size mini --languages 100 --output bench_serving.json

A tagger annotates the same random sentences of 5 to 45 tokens twice: all in one language, and each in one of many
languages, drawn at random; all modules stay in memory. It is measured for bottleneck adapters (of half the hidden
size), for low-rank deltas (rank 8, all linear layers), both of which share batches, and for sparse deltas (8% of all
entries), which are switched: sentences are grouped by language first. Seconds are those of the CPU, and both take
turns. The record has the throughput in many languages
as a share of that in one. The limit for those that share a batch is the model's own products, to which each language
of a batch adds small ones; for sparse deltas it is the bytes that a switch moves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from benchmark.report import CommandLine, machine, settings, write_record
from benchmark.rounds import in_turn, ratios, spread
from benchmark.shapes import ENCODERS
from benchmark.trainers import NoTokenizer, random_module, tagging_trainer

from xlt.data.examples import Example
from xlt.models.sublayers import find_blocks
from xlt.models.transfer import TransferModel
from xlt.modules import LowRankDelta, ModuleArtefact, ModuleHeader, ModuleStack
from xlt.modules.adapter import Adapter, BottleneckAdapter
from xlt.tasks.task import Task
from xlt.use.annotating import annotate
from xlt.use.by_example import layers_for_examples
from xlt.use.loading import LoadedModel, UsedModule, UsedModules
from xlt.use.texts import Entry

_SHORTEST, _LONGEST = 5, 45
_RANK = 8


def main() -> None:
    line = CommandLine(__doc__, rounds=5, threads=1, batch=32)
    line.add_argument("--size", choices=ENCODERS, default="mini", help="of the model; default: %(default)s")
    line.add_count("languages", 100, "languages, each with a module")
    line.add_count("sentences", 1024, "sentences that are annotated")
    line.add_argument("--kinds", nargs="*", choices=_KINDS, default=list(_KINDS), help="of modules")
    options = line.parse_args()
    torch.set_num_threads(options.threads)
    trainer = tagging_trainer(options.size, "full", [], _LONGEST)
    model, task = trainer.model.eval().requires_grad_(False), trainer.task
    codes = [f"q{chr(97 + number // 26)}{chr(97 + number % 26)}" for number in range(options.languages)]
    draw = torch.Generator().manual_seed(1)
    rows = _rows(options.sentences, ENCODERS[options.size].vocabulary, draw)
    task.inputs = lambda examples, encoder: [rows[int(example.place)] for example in examples]  # type: ignore[method-assign]
    record = {}
    for kind in options.kinds:
        loaded = _loaded(model, task, {code: _KINDS[kind](model, _header(kind, code), draw) for code in codes})
        places = torch.randint(len(codes), (options.sentences,), generator=draw).tolist()
        calls = {
            "one": _call(loaded, [codes[0]] * options.sentences, options.batch),
            "many": _call(loaded, [codes[place] for place in places], options.batch),
        }
        seconds = in_turn(calls, options.rounds, clock=time.process_time)
        ModuleStack(model).set([])
        record[kind] = {
            "sentences_per_second": {
                name: options.sentences / spread(times)["median"] for name, times in seconds.items()
            },
            "share": spread(ratios(seconds, "one", "many")),
        }
        of = record[kind]["sentences_per_second"]
        print(f"{kind:9} {of['one']:7.1f} sentences a second in one language, {of['many']:7.1f} in "
              f"{len(codes)}: {record[kind]['share']['median']:.2f}", flush=True)  # fmt: skip
    write_record({**machine(), **settings(options), "kinds": record}, options.output)


def _rows(count: int, vocabulary: int, draw: torch.Generator) -> list[dict[str, Any]]:
    rows = []
    for length in torch.randint(_SHORTEST, _LONGEST + 1, (count,), generator=draw).tolist():
        ids = torch.randint(5, vocabulary, (length,), generator=draw).tolist()
        rows.append({"input_ids": ids, "labels": [0] * length, "last_labels": [0] * length, "window": 0})
    return rows


def _call(loaded: LoadedModel, languages: Sequence[str], batch: int) -> Callable[[], object]:
    entries = [Entry(Example(str(number), words=("a",)), code) for number, code in enumerate(languages)]
    return lambda: annotate(loaded, entries, batch_size=batch)


def _loaded(model: TransferModel, task: Task, modules: Mapping[str, ModuleArtefact]) -> LoadedModel:
    used = {code: UsedModule(Path(code), module) for code, module in modules.items()}
    return LoadedModel(model, NoTokenizer(), task, UsedModules([], dict(used)))  # type: ignore[arg-type]


def _header(kind: str, language: str) -> ModuleHeader:
    return ModuleHeader(kind=kind, method="benchmark", base_model="random", base_hash="random", language=language)


def _adapter(model: TransferModel, header: ModuleHeader, draw: torch.Generator) -> Adapter:
    size = model.hidden_size
    paths = [block.norm for block in find_blocks(model) if block.norm is not None]
    adapters = {path: BottleneckAdapter(size, size // 2, "relu") for path in paths}
    return Adapter(header, adapters, dict.fromkeys(paths, "norm"))


def _low_rank(model: TransferModel, header: ModuleHeader, draw: torch.Generator) -> LowRankDelta:
    factors = {}
    for name, layer in layers_for_examples(model).items():
        rows, columns = layer.weight.shape  # type: ignore[misc]
        a, b = (torch.randn(shape, generator=draw) * 1e-3 for shape in ((_RANK, columns), (rows, _RANK)))
        factors[name] = (a, b)
    return LowRankDelta(header, factors, 1.0)


_KINDS: dict[str, Callable[[TransferModel, ModuleHeader, torch.Generator], ModuleArtefact]] = {
    "adapter": _adapter,
    "low_rank": _low_rank,
    "sparse_delta": lambda model, header, draw: random_module(model, str(header.language), draw),
}

if __name__ == "__main__":
    main()
