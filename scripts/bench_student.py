"""What a student saves: speed, FLOPs and size beside the whole model (thesis §5.5; Tables 5.7 and 5.2).

    python scripts/bench_student.py table=bistil table.headings=[POS] seeds=[1] data_dir=... model.path=... \
        --output student.json

The script takes a table as `scripts/reproduce_table.py` does. It trains nothing, and measures what that table has
trained: each system's run of the first seed and of one column, put together as its evaluation does. A system that is
not trained yet is named and left out. All systems get the same examples of the column, each cut by its own tokenizer.
Tokenising and collating are not timed; the task's own scoring, head and decoding included, is.

    cpu     examples a second one at a time, unpadded; an example of several windows takes as many passes
    gpu     examples a second in batches as large as in training, of similar length as in an evaluation; null without
            a GPU
    flops   of an example, one at a time; "body" is what the Transformer's blocks do, the rest is the task's head

Systems are timed in turn (A B C, B C A, ...) in one process after a round that does not count; a ratio is the median
over rounds of the ratio within the round, the range is over all rounds. Precision is that of the reference's evaluation
(`train.precision`) unless `--precision` is given; in bf16 each pass casts the body's weights first.

What limits the speed: at batch 1 the body's FLOPs, 2 for each weight and token. For short sentences, and for small
models on a GPU, it is what each layer costs in any case: reading its weights, launching its operators. Both are
proportional to the number of layers; what is done once in a pass is not, and limits small models. Embeddings are looked
up: they cost nothing but memory, so a smaller vocabulary makes a model smaller and not faster. A head costs a student
as much as a whole model: to score R relations of a word, a parser's takes 2 R hidden_size^2 (the thesis's 0.61 and 0.48
for DP amount to a head of 0.28 of mBERT's body: (0.50 + 0.28) / 1.28, (0.33 + 0.28) / 1.28). And a reduced vocabulary
splits rare words into more pieces, so that a student may have more tokens to process; the tables show them.

FLOPs are those of matrix products. torch's counter (2.13) sees none in the fused attention of a CPU, so they are
counted with attention's plain definition, which does the same products. A product with a sum is two operations;
the thesis counted with fvcore, to which it is one: ratios are the same.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.resources
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
from benchmark.report import CommandLine, device_name, write_record
from benchmark.rounds import in_turn, ratios
from omegaconf import OmegaConf
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from xlt.commands.cli import guarded
from xlt.compose import hydra_ready
from xlt.data.encoding import Encoder
from xlt.data.examples import Example
from xlt.data.mix import Features
from xlt.data.sources import read_source
from xlt.data.streams import stream
from xlt.engine.build import build_encoder, build_model, build_task
from xlt.engine.evaluation import autocast
from xlt.engine.run import Composition
from xlt.engine.run_data import RunData
from xlt.errors import UsageError
from xlt.models.loading import quiet_libraries
from xlt.models.student import count_blocks
from xlt.models.sublayers import outermost_blocks
from xlt.models.transfer import TransferModel, parameter_report
from xlt.modules import ModuleStack, check_base
from xlt.plan.planner import Plan
from xlt.plan.runs import Run
from xlt.plan.store import RunStore
from xlt.tables.request import request_table
from xlt.tables.table import Table
from xlt.tasks.task import Task

Batches = list[tuple[dict[str, Tensor], list[Features]]]
"""(model inputs, the features that they were collated from)"""


@dataclass(frozen=True)
class SystemPlan:
    """What the table says about one system.

    Attributes:
        run: the run of the column and the first seed.
        composition: the evaluation that fills the column.
        score: its metric in the store, None where the run was not evaluated.
        missing: labels of the runs that it needs and that are not trained yet.
    """

    label: str
    run: Run
    composition: Composition
    score: float | None
    missing: list[str]


@dataclass
class System:
    """A model as its evaluation puts it together: in evaluation mode, with its modules."""

    task: Task
    encoder: Encoder
    model: TransferModel

    def rows(self, examples: Sequence[Example]) -> list[list[Features]]:
        """Model inputs of each example."""
        return [self.task.features([example], self.encoder) for example in examples]

    def collate(self, rows: Sequence[list[Features]]) -> Batches:
        """One batch for each list of rows, on the model's device."""
        generator = stream(0, "evaluation")
        batches = ((self.task.collate(part, self.encoder, generator), part) for part in rows)
        return [({key: tensor.to(self.model.device) for key, tensor in batch.items()}, part) for batch, part in batches]

    @torch.no_grad()
    def score(self, batches: Batches, precision: str) -> None:
        """Scores all batches."""
        for batch, rows in batches:
            with autocast(self.model, precision):
                self.task.score(self.model, batch, rows)


def plan_systems(
    words: Sequence[str], column: str | None, reference: str | None
) -> tuple[dict[str, SystemPlan], dict[str, Any]]:
    """The systems of a table in one column, and the record's facts about the table.

    Args:
        column, reference: None for the table's first.
    Raises:
        UsageError: wrong overrides, faulty configs, no such column or system.
    """
    with hydra_ready():
        request = request_table(words)
        if len(request.grids) > 1:
            there, first = ", ".join(request.grids), next(iter(request.grids))
            raise UsageError(f"table={request.file}: has {there}; choose one, as table.headings=[{first}]")
        (heading, grid), config, name = next(iter(request.grids.items())), request.config, request.name
        columns, systems = grid.sources, list(grid.systems)
        column, reference = column or columns[0], reference or systems[0]
        for option, given, known in (("column", column, columns), ("reference", reference, systems)):
            if given not in known:
                raise UsageError(f"--{option} {given}: table={name} has {', '.join(known)}")
        seed, store = config.seeds[0], RunStore(config.output_dir)
        narrow = dataclasses.replace(grid, columns=[column], groups={}, average=[])
        plan = Plan(store)
        table = Table(request.grid_name(heading), narrow, [seed], request.overrides, plan)
    cells = table.grid(store, {}).cells
    plans = {}
    for system, settings in grid.systems.items():
        run, composition = table.run(system, seed, column), table.composition(system, seed, column)
        if composition is None or column not in run.planned_data.evaluation:
            raise UsageError(f"table={name}: {system} is not evaluated on examples of {column}; give another --column")
        needed = {run.fingerprint, *run.evaluation_needs, *_base_runs(run)}
        missing = [one.label for one in plan.runs.values() if one.fingerprint in needed - _trained(plan)]
        score = next(iter(cells[system][column].values), None)
        plans[system] = SystemPlan(settings.label, run, composition, score, missing)
    about = {"table": name, "column": column, "seed": seed, "metric": grid.metric, "reference": reference}
    return plans, about


def _base_runs(run: Run) -> list[str]:
    """Fingerprints of the runs that make the models which this run's module changes."""
    return [run.depends_on[role] for role in ("model", "student") if role in run.depends_on]


def _trained(plan: Plan) -> set[str]:
    return plan.runs.keys() - {run.fingerprint for run in plan.to_train()}


def load(plan: SystemPlan) -> System:
    """The system on the CPU, put together as `evaluate_compositions` does.

    Raises:
        UsageError, ModuleFileError: model and modules do not fit.
    """
    config, path = dataclasses.replace(plan.run.config, device="cpu"), plan.run.evaluation_model
    assert path is not None
    task = build_task(config.task)
    encoder = build_encoder(config, path, RunData(config, task))
    model = build_model(config, path, task, encoder, trains=False)
    modules = [file.load() for file in plan.composition.modules]
    for file, module in zip(plan.composition.modules, modules, strict=True):
        check_base(module.header, model.base_hash, file.path)
    ModuleStack(model).set(modules)
    return System(task, encoder, model.eval())


def examples_of(plan: SystemPlan, count: int, task: Task) -> list[Example]:
    """The first examples of the evaluation source that a system is evaluated on, after the task's check."""
    name = f"data.evaluation.{plan.composition.source}"
    source = plan.run.planned_data.evaluation[plan.composition.entry]
    examples = list(islice(read_source(name, source, plan.run.config.seed), count))
    task.check(examples, name)
    return examples


def count_flops(system: System, batches: Batches) -> dict[str, int]:
    """FLOPs of scoring the batches: of the whole model, and of the backbone's blocks alone."""
    counter = FlopCounterMode(display=False)
    before: list[int] = []
    body = 0

    def enter(*_: object) -> None:
        before.append(counter.get_total_flops())

    def leave(*_: object) -> None:
        nonlocal body
        body += counter.get_total_flops() - before.pop()

    blocks = outermost_blocks(system.model.backbone)
    handles = [block.register_forward_pre_hook(enter) for block in blocks]
    handles += [block.register_forward_hook(leave) for block in blocks]
    try:
        with counter, sdpa_kernel(SDPBackend.MATH):
            system.score(batches, "fp32")
    finally:
        for handle in handles:
            handle.remove()
    return {"flops": counter.get_total_flops(), "body_flops": body}


def time_in_turn(
    systems: Mapping[str, System], batches: Mapping[str, Batches], rounds: int, precision: str
) -> dict[str, list[float]]:
    """Seconds of scoring all batches, for each system and round."""
    calls = {name: partial(system.score, batches[name], precision) for name, system in systems.items()}
    return in_turn(calls, rounds, device=next(iter(systems.values())).model.device)


def measure(
    systems: Mapping[str, System],
    reference: str,
    examples: Sequence[Example],
    batch: int,
    rounds: int,
    precision: str,
    gpu: torch.device | None,
) -> dict[str, dict[str, Any]]:
    """All measurements, by system; ratios are to the reference. With a GPU, the models are on it afterwards."""
    count = len(examples)
    rows = {name: system.rows(examples) for name, system in systems.items()}
    ones = {name: system.collate([[row] for part in rows[name] for row in part]) for name, system in systems.items()}
    results: dict[str, dict[str, Any]] = {}
    for name, system in systems.items():
        flops = count_flops(system, ones[name])
        head = system.model.head
        results[name] = {
            "layers": count_blocks(system.model),
            "hidden_size": system.model.hidden_size,
            "tokens": system.model.vocabulary,
            **parameter_report(system.model),
            "head_parameters": 0 if head is None else sum(parameter.numel() for parameter in head.parameters()),
            "tokens_per_example": sum(len(row["input_ids"]) for part in rows[name] for row in part) / count,
            **{key: value / count for key, value in flops.items()},
        }
    times = {"cpu": time_in_turn(systems, ones, rounds, precision)}
    if gpu is not None:
        # The reference's lengths decide which examples share a batch, longest first as in an evaluation.
        longest = [max((len(row["input_ids"]) for row in part), default=0) for part in rows[reference]]
        order = sorted(range(count), key=longest.__getitem__, reverse=True)
        groups = [order[at : at + batch] for at in range(0, count, batch)]
        batches = {}
        for name, system in systems.items():
            system.model.to(gpu)
            batches[name] = system.collate([[row for one in group for row in rows[name][one]] for group in groups])
        times["gpu"] = time_in_turn(systems, batches, rounds, precision)
    whole = results[reference]
    for name, result in results.items():
        result["ratios"] = {key: result[key] / whole[key] for key in ("flops", "body_flops", "parameters")}
        for device in ("cpu", "gpu"):
            result[device] = result["ratios"][device] = None
            if device in times:
                faster = ratios(times[device], reference, name)
                result["ratios"][device] = statistics.median(faster)
                result[device] = {
                    "examples_per_second": count / statistics.median(times[device][name]),
                    "seconds": times[device][name],
                    "ratios": faster,
                }
    return results


def published(task: str) -> list[str]:
    """The ratios that the thesis gives for a task, one line for each model; empty where it gives none."""
    file = importlib.resources.files("xlt_conf") / "published" / "thesis_5_7.yaml"
    table = OmegaConf.create(file.read_text(encoding="utf-8"))
    lines = []
    for name, numbers in table.numbers.measured.items():
        shown = [f"{key.split()[1]} {value:.2f}x" for key, value in numbers.items() if key.split()[0] == task]
        if shown:
            lines.append(f"{table.name}, {task}: {name:11} {'  '.join(shown)}")
    return lines


def show(record: Mapping[str, Any], console: Console) -> None:
    """Prints speed, FLOPs and sizes, each as a table of 80 columns at most."""
    systems = record["systems"]
    about = f"{record['column']}, {record['metric']}; {record['examples']} examples, x of {record['reference']}"
    where = f"{record['devices']['cpu']}, {record['threads']} threads, {record['precision']}, torch {record['torch']}"
    console.print(f"{record['table']}: {about}", highlight=False, markup=False, soft_wrap=True)
    console.print(where, highlight=False, soft_wrap=True)
    gpu = record["devices"]["gpu"]
    about_gpu = "not measured on a GPU: none is available" if gpu is None else f"{gpu}, batches of {record['batch']}"
    console.print(about_gpu, highlight=False, soft_wrap=True)

    def speed(system: Mapping[str, Any], device: str) -> list[str]:
        if system[device] is None:
            return ["-", "-"]
        low, high = min(system[device]["ratios"]), max(system[device]["ratios"])
        ratio = f"{_ratio(system['ratios'][device])} ({_ratio(low)}-{_ratio(high)})"
        return [ratio, f"{system[device]['examples_per_second']:.0f}"]

    columns = ["score", "cpu x (range)", "ex/s", *([] if gpu is None else ["gpu x (range)", "ex/s"])]
    table = _empty_table("Speed", columns)
    for system in systems.values():
        score = "-" if system["score"] is None else f"{system['score']:.1f}"
        on_gpu = [] if gpu is None else speed(system, "gpu")
        table.add_row(escape(system["label"]), score, *speed(system, "cpu"), *on_gpu)
    console.print(table)

    table = _empty_table("MFLOPs an example", ["x", "whole", "body x", "body", "rest", "its tokens"])
    for system in systems.values():
        ratios, flops, body = system["ratios"], system["flops"], system["body_flops"]
        numbers = [f"{ratios['flops']:.2f}", _millions(flops), f"{ratios['body_flops']:.2f}", _millions(body)]
        table.add_row(escape(system["label"]), *numbers, _millions(flops - body), f"{system['tokens_per_example']:.1f}")
    console.print(table)

    columns = ["x", "whole", "embeddings", "body", "layers", "width", "tokens"]
    table = _empty_table("Size, millions of parameters", columns)
    for system in systems.values():
        parts = [_millions(system[f"{part}parameters"]) for part in ("", "embedding_", "body_")]
        shape = [str(system[part]) for part in ("layers", "hidden_size", "tokens")]
        table.add_row(escape(system["label"]), f"{system['ratios']['parameters']:.2f}", *parts, *shape)
    console.print(table)


def _empty_table(title: str, columns: Sequence[str]) -> RichTable:
    narrow: dict[str, Any] = {"box": box.SIMPLE_HEAD, "pad_edge": False, "show_edge": False, "padding": (0, 1, 0, 0)}
    table = RichTable(title=f"\n{title}", title_justify="left", **narrow)
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _ratio(number: float) -> str:
    return f"{number:.2f}" if number < 10 else f"{number:.1f}"


def _millions(number: float) -> str:
    """Three digits or more: 0.0123, 1.23, 123, 12345."""
    value = number / 1e6
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def main() -> None:
    line = CommandLine(__doc__, rounds=5)
    line.add_argument(
        "--reference", default=None, metavar="SYSTEM", help="all ratios are to it; default: the table's first"
    )
    line.add_argument("--column", default=None, help="whose examples are measured; default: the table's first")
    line.add_count("examples", 200, "examples to measure on")
    line.add_count("batch", 8, "examples a pass on a GPU; in the thesis as many as in training")
    line.add_argument("--precision", choices=("fp32", "bf16"), default=None, help="of the timed passes; bf16: autocast")
    line.add_argument("overrides", nargs="*", help="table=NAME, and overrides as for reproduce_table.py")
    options = line.parse_intermixed_args()
    guarded(lambda: bench(options))


def bench(options: argparse.Namespace) -> int:
    """Measures the trained systems of a table; returns the exit code.

    Raises:
        UsageError: wrong overrides, or the reference is not trained.
    """
    quiet_libraries()
    plans, about = plan_systems(options.overrides, options.column, options.reference)
    reference = about["reference"]
    left_out = {name: f"not trained yet: {'; '.join(plan.missing)}" for name, plan in plans.items() if plan.missing}
    if reference in left_out:
        raise UsageError(
            f"{reference} is {left_out[reference]}; all ratios are to it, so train it or give another --reference"
        )
    for name, reason in left_out.items():
        print(f"{name} left out, {reason}")
    config = plans[reference].run.config
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    systems = {name: load(plan) for name, plan in plans.items() if not plan.missing}
    examples = examples_of(plans[reference], options.examples, systems[reference].task)
    gpu = torch.device("cuda") if torch.cuda.is_available() else None
    precision = options.precision or config.train.precision
    measured = measure(systems, reference, examples, options.batch, options.rounds, precision, gpu)
    record = {
        **about,
        "devices": {"cpu": device_name(), "gpu": None if gpu is None else device_name(gpu)},
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "precision": precision,
        "examples": len(examples),
        "rounds": options.rounds,
        "batch": options.batch,
        "left_out": left_out,
        "systems": {
            name: {"label": plans[name].label, "run": plans[name].run.fingerprint, "score": plans[name].score, **result}
            for name, result in measured.items()
        },
    }
    show(record, Console())
    for line in published(systems[reference].task.name):
        print(line)
    write_record(record, options.output)
    return 0


if __name__ == "__main__":
    main()
