"""Step time and peak memory of our bottleneck adapters beside the `adapters` library's, and what a generator costs.

    python scripts/bench_adapters.py --size mbert --output bench_adapters.json   # adapters: an environment of its own
    python scripts/bench_adapters.py --size small                                # runs anywhere

Models have random weights, the same on both sides, and train on one batch without padding. A step is forward pass,
backward pass and AdamW (fused) over the trained parameters, without clipping, collation and schedule. Before anything
is timed, logits, loss, norm of the gradient and number of trained parameters of both sides must agree. Steps are timed
in turn (A B C, B C A, ...), each round in a new process; a ratio is the median over all turns of the ratio within the
turn. Memory is measured in a process for each contender: the resident set's high-water mark (Linux), on a GPU what
torch allocated; "grown" is above what was in use when the first of two steps began.

What limits a step: frozen layers of P parameters cost 2 P operations a token forward and 2 P backward to their input,
whatever is trained below them. That is the row `floor`: the frozen model's own two passes down to the lowest trained
adapter (to the embeddings' output for a language, to the first block's output for a task), measured in the same turns.
An adapter of A parameters adds 6 A operations a token where it is trained, 4 A where it is frozen, and one more pass of
the block's layer normalisation, which moves bytes only. The column `ops` has the operations of matrix products
(without those of attention) relative to the floor's; `x floor` would be the same if nothing else took time. AdamW moves
28 bytes a trained parameter, little beside that. But MAD-G's generator has about 32 times its adapters' parameters and
is multiplied with a vector, which is no matrix product: about 44 bytes a parameter and step, which limits it on a CPU.
(It has no invertible adapter, so its backward pass ends a block earlier than the floor's.) On a GPU small batches are
limited by the launching of kernels.

Both sides compute language-model logits at the predicted positions. The library's users get them from transformers' own
forward pass, at all positions: the row `all_logits`. The library applies the inverse of the invertible adapter in its
own heads only; here it is put before transformers' decoder.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from adapter_contenders import (
    CASES,
    LANGUAGE_REDUCTION,
    LANGUAGES,
    PEERS,
    Setup,
    agree,
    attach_method,
    build,
    module_header,
    transfer_model,
)
from adapters_library import versions
from benchmark.memory import RETURN_FREED_MEMORY, PeakMemory
from benchmark.process import MeasurementError, in_own_process
from benchmark.report import CommandLine, machine, settings, write_record
from benchmark.rounds import in_turn, ratios, repeat, spread
from benchmark.shapes import ENCODERS
from torch.utils.flop_counter import FlopCounterMode

from xlt.modules.generator import Generator

_WARM_UP = 2
_PACKAGES = ("torch", "transformers", "adapters")


def products(step: Callable[[], None]) -> int:
    """Operations of a step's matrix products, without attention's, of which the counter misses some."""
    with FlopCounterMode(display=False) as counter:
        step()
    counts = counter.get_flop_counts()["Global"]
    return sum(counts.get(operator, 0) for operator in (torch.ops.aten.mm, torch.ops.aten.addmm))


def measure_time(setup: Setup, case: str, names: Sequence[str], steps: int) -> dict[str, Any]:
    """Seconds of the contenders' steps, in turn, in this process."""
    contenders = {name: build(setup, CASES[case], name) for name in names}
    differences = {name: agree(contenders["xlt"], contenders[name]) for name in names if name in PEERS}
    operations = {name: products(contender.step) for name, contender in contenders.items()}
    calls = {name: contender.step for name, contender in contenders.items()}
    return {
        "seconds": in_turn(calls, steps, warm_up=_WARM_UP, device=setup.device),
        "operations": operations,
        "trained": {name: contender.parameters for name, contender in contenders.items()},
        "differences": differences,
    }


def measure_memory(setup: Setup, case: str, name: str) -> dict[str, float]:
    """Peak memory of two steps in this process; the second has the optimiser's state beside its gradients."""
    contender = build(setup, CASES[case], name)
    with torch.no_grad():
        contender.loss()  # the libraries import some parts at their first use, which is not the step's memory
    memory = PeakMemory(setup.device)
    for _ in range(2):
        contender.step()
    return memory.record()


def measure_generation(setup: Setup, repeats: int) -> dict[str, Any]:
    """Seconds to make one language's module of a generator, which stays on the CPU."""
    model = transfer_model(setup, CASES["mad_g"], vocabulary=100)
    method = attach_method(setup, "mad_g", LANGUAGE_REDUCTION, model, adapts_language=True)
    generator = method.export(model, module_header(True))
    assert isinstance(generator, Generator)
    languages = itertools.cycle(LANGUAGES)
    seconds = repeat(lambda: generator.for_language(next(languages)), repeats, warm_up=_WARM_UP)
    return {
        "seconds": seconds,
        "generator_parameters": sum(parameter.numel() for parameter in generator.network.parameters()),
        "adapter_parameters": generator.for_language(LANGUAGES[0]).num_entries,
    }


def compare(setup: Setup, case: str, names: Sequence[str], steps: int, rounds: int, threads: int) -> dict[str, Any]:
    """A case's numbers over all rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in names}
    memory: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(rounds):
        timed = in_own_process(measure_time, setup, case, names, steps, threads=threads)
        for name in names:
            seconds[name] += timed["seconds"][name]
            memory[name].append(
                in_own_process(measure_memory, setup, case, name, threads=threads, environment=RETURN_FREED_MEMORY)
            )
    operations = timed["operations"]
    rows: dict[str, dict[str, Any]] = {
        name: {
            "seconds": spread(seconds[name]),
            "all_seconds": seconds[name],
            "ratio_to_floor": spread(ratios(seconds, name, "floor")),
            "operations": operations[name],
            "operations_to_floor": operations[name] / operations["floor"],
            **{key: statistics.median(one[key] for one in memory[name]) for key in ("peak_mib", "grown_mib")},
            "all_memory": memory[name],
            "trained": timed["trained"][name],
        }
        for name in names
    }
    pairs = [("xlt", peer) for peer in PEERS if peer in names] + ([("mad_g", "xlt")] if "mad_g" in names else [])
    compared = {
        f"{one} / {other}": {
            "seconds": spread(ratios(seconds, one, other)),
            **{key: _share(rows[one][key], rows[other][key]) for key in ("peak_mib", "grown_mib")},
        }
        for one, other in pairs
    }
    return {"rows": rows, "ratios": compared, "differences": timed["differences"]}


def _share(part: float, whole: float) -> float | None:
    """Returns `part / whole`; None if `whole` is 0, as when a tiny model's memory did not grow."""
    return part / whole if whole else None


def show(title: str, results: Mapping[str, Any]) -> None:
    """A case's table, within 80 columns."""
    print(f"\n{title}")
    print(f"  {'':10} {'ms a step (quartiles)':>27} {'x floor':>7} {'ops':>5} {'MiB':>6} {'grown':>6} {'trained':>8}")
    for name, row in results["rows"].items():
        times = f"{_milliseconds(row['seconds']):>27} {row['ratio_to_floor']['median']:7.2f}"
        memory = f"{row['peak_mib']:6.0f} {row['grown_mib']:6.0f} {row['trained'] / 1e6:7.2f}M"
        print(f"  {name:10} {times} {row['operations_to_floor']:5.2f} {memory}")
    for pair, ratio in results["ratios"].items():
        low, middle, high = (ratio["seconds"][part] for part in ("low", "median", "high"))
        grown = "-" if ratio["grown_mib"] is None else f"{ratio['grown_mib']:.3f}"
        memory = f"MiB {ratio['peak_mib']:.3f}, grown {grown}"
        print(f"  {pair}: time {middle:.3f} ({low:.3f} - {high:.3f}), {memory}")
    for name, differences in results["differences"].items():
        parts = ", ".join(f"{part} {difference:.0e}" for part, difference in differences.items())
        print(f"  xlt and {name} agree, relative: {parts}")


def _milliseconds(seconds: Mapping[str, float]) -> str:
    low, middle, high = (1000 * seconds[part] for part in ("low", "median", "high"))
    return f"{middle:.1f} ({low:.1f} - {high:.1f})"


def main() -> None:
    line = CommandLine(__doc__, batch=8, tokens=128, rounds=2, threads=1)
    line.add_argument("--size", choices=ENCODERS, default="small", help="of the model")
    cases = [*CASES, "generate"]
    about = "language, stacked, task, mad_g: see the titles printed; generate: making a module of MAD-G's generator"
    line.add_argument("--cases", nargs="+", choices=cases, default=cases, help=about)
    line.add_count("steps", 10, "timed steps of each contender in each round")
    line.add_count("leave-out-last", 0, "blocks at the top without adapters", least=0)
    line.add_device()
    line.add_precision()
    options = line.parse_args()
    torch.set_num_threads(options.threads)
    try:
        record = bench(options)
    except MeasurementError as error:
        sys.exit(f"bench_adapters.py: {error}")
    write_record(record, options.output)


def bench(options: argparse.Namespace) -> dict[str, Any]:
    """Measures the chosen cases and prints their tables; returns the record."""
    setup = Setup(
        options.size, options.batch, options.tokens, options.leave_out_last, options.device, options.precision
    )
    packages, threads = versions(_PACKAGES), options.threads
    record: dict[str, Any] = {
        **machine(options.device),
        "python": platform.python_version(),
        **packages,
        **settings(options, "cases", "device"),
        "cases": {},
    }
    print(f"{options.size}, {options.batch} x {options.tokens} tokens, {options.precision}, {record['device']}")
    print(", ".join(f"{package} {number or 'missing'}" for package, number in packages.items()))
    if packages["adapters"] is None:
        print(
            "adapters is not installed, so the library's rows are missing; pip install adapters, in its own environment"
        )
    for case in options.cases:
        if case == "generate":
            record["generate"] = generation(setup, options.steps, options.rounds, threads)
        else:
            names = [name for name in CASES[case].contenders if name not in PEERS or packages["adapters"]]
            record["cases"][case] = compare(setup, case, names, options.steps, options.rounds, threads)
            show(CASES[case].title, record["cases"][case])
    return record


def generation(setup: Setup, steps: int, rounds: int, threads: int) -> dict[str, Any]:
    """What making a language's module of a generator costs, over all rounds."""
    measured = [in_own_process(measure_generation, setup, steps, threads=threads) for _ in range(rounds)]
    seconds = [value for one in measured for value in one["seconds"]]
    result = measured[0] | {"seconds": spread(seconds), "all_seconds": seconds}
    adapter, generator = (result[f"{part}_parameters"] / 1e6 for part in ("adapter", "generator"))
    print(f"\none language's adapter, {adapter:.2f}M parameters, from a generator of {generator:.2f}M, CPU:")
    print(f"  {_milliseconds(result['seconds'])} ms (quartiles)")
    return result


if __name__ == "__main__":
    main()
