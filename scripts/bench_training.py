"""Step time and peak memory of full FT, LT-SFT, rand-SFT, BitFit, SpIEL and peft's LoRA, through the engine's own loop.

    python scripts/bench_training.py --size mbert --steps 5 --output bench_training.json

Models have random weights; the task is tagging, 8 x 128 tokens a step. Methods take turns (rounds), each in a process
of its own, and the medians over all rounds are compared as ratios to full fine-tuning and to LoRA in the same run. What
limits the step: full FT does three products of equal size a layer (output, input gradient, weight gradient) and moves
the optimiser's 16 bytes a parameter; the sparse phase does two products, a sampled third, and 16 bytes an entry, so
with density near zero it tends to 2/3. LoRA does the frozen layer's two products and six narrow ones, and keeps more
activations. Peak memory is the resident set's high-water mark of a phase (Linux).

On a CPU the engine has attention and dropout of its own (`scripts/bench_dropout.py`), which LoRA gains most from: it
drops entries of every layer's input. `lora_N_as_in_peft` is LoRA with torch's, as it is trained elsewhere.

For SpIEL the median of ordinary steps is given, and beside it, as shares of S = 20 ordinary ones (thesis §7.4.3), what
an update of the entries costs (drop, growth, optimiser state), and what the steps before it take longer because they
estimate gradients.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from transformers import BertConfig, BertForMaskedLM
from xlt_kernels.select import select_at_random

from xlt.compose import checked, compose, hydra_ready
from xlt.data.mix import LoadedSource
from xlt.data.streams import stream
from xlt.engine.activation import LanguageActivation
from xlt.engine.build import build_method, build_task
from xlt.engine.processes import Processes
from xlt.engine.training import Trainer
from xlt.methods.method import Setting
from xlt.models.transfer import TransferModel, block_linear_layers, split_pretrained
from xlt.modules import Entries, ModuleHeader, SparseDelta

SIZES = {
    "mbert": {"vocab_size": 119547, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    "mini": {"vocab_size": 40000, "hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 12},
    "tiny": {"vocab_size": 100, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
    "small": {"vocab_size": 8000, "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4},
}
# Name -> method and its overrides.
METHODS = {
    "full": ("full", []),
    "lt_sft": ("lt_sft", []),
    "random_sft": ("random_sft", []),
    "bitfit": ("bitfit", []),
    "spiel_ag_1%": ("spiel_ag", ["method.density=0.01"]),
    "spiel_ma_1%": ("spiel_ma", ["method.density=0.01"]),
    "spiel_ag_4%": ("spiel_ag", ["method.density=0.04"]),
    "spiel_ma_4%": ("spiel_ma", ["method.density=0.04"]),
    "lora_8": ("lora", ["method.rank=8"]),
    "lora_64": ("lora", ["method.rank=64"]),
}
_AS_IN_PEFT = "_as_in_peft"
METHODS |= {name + _AS_IN_PEFT: METHODS[name] for name in ("lora_8", "lora_64")}
_PEERS = (
    "full",
    "lora_8",
    "lora_64",
    "lora_8_as_in_peft",
    "lora_64_as_in_peft",
)  # what the others are compared with, where they are measured too
_WARM_UP = 1
_INTERVAL, _ESTIMATION = 8, 5  # steps between SpIEL's updates here, the last 5 of them with more to do
_THESIS_INTERVAL = 20


class StepClock:
    """A watcher that notes when each step ends, and the memory's high-water mark of each phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}
        self.peak_mib: dict[str, float] = {}
        self._last = 0.0
        self._phase = ""

    def begin_phase(self, name: str, start: int, steps: int) -> None:
        self._phase = name
        reset_high_water_mark()
        self.seconds[name] = []
        self._last = time.perf_counter()

    def metrics(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        if any(name.startswith("validation/") for name in values):
            return
        now = time.perf_counter()
        self.seconds[phase].append(now - self._last)
        self._last = now
        self.peak_mib[phase] = high_water_mark()

    def note(self, message: str) -> None: ...

    def rewind(self, lines: int) -> None: ...

    def written(self) -> int:
        return 0

    def trained(self) -> None: ...

    def evaluated(self, records: Mapping[str, Mapping[str, Any]]) -> None: ...

    def close(self) -> None: ...


def reset_high_water_mark() -> None:
    if Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")


def high_water_mark() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return float("nan")


def random_trainer(
    size: str, method_name: str, overrides: list[str], tokens: int, languages: tuple[str, ...] = ("eng",)
) -> Trainer:
    """A trainer of a tagger with random weights on random sentences of `tokens` tokens.

    With several languages each has a language module of 8% of the model's entries, drawn at random.
    """
    torch.manual_seed(0)
    shape = SIZES[size]
    config = BertConfig(**shape, intermediate_size=4 * int(shape["hidden_size"]))
    backbone, lm_head = split_pretrained(BertForMaskedLM(config))
    model = TransferModel(backbone, lm_head, "random", size)
    model.lm_head = None
    with hydra_ready():
        run = checked(
            compose(
                [
                    "experiment=nano_fields",
                    f"method={method_name}",
                    "train.evaluate_every_steps=1000000",
                    "train.save_every_seconds=1000000",
                    f"task.max_length={tokens}",
                    *overrides,
                ]
            )
        )
    task = build_task(run.task)
    model.head = task.head(model.hidden_size)
    generator = torch.Generator().manual_seed(0)
    rows = [
        {
            "input_ids": torch.randint(5, int(shape["vocab_size"]), (tokens,), generator=generator).tolist(),
            "labels": torch.randint(0, 13, (tokens,), generator=generator).tolist(),
            "example": number,
            "window": 0,
        }
        for number in range(64)
    ]
    modules = {}
    if len(languages) > 1:
        modules = {language: _random_module(model, language, generator) for language in languages}
    return Trainer(
        model=model,
        method=build_method(run.method),
        task=task,
        encoder=NoTokenizer(),  # type: ignore[arg-type]
        sources=[LoadedSource(language, language, rows) for language in languages],
        validation=[LoadedSource("random", languages[0], rows[:1])],
        activation=LanguageActivation(model, modules, list(languages)),
        recipe=run.train,
        setting=Setting(adapts_language=False, random=lambda *name: stream(0, *name)),
        seed=0,
        processes=Processes(),
    )


def _random_module(model: TransferModel, language: str, generator: torch.Generator) -> SparseDelta:
    shapes = {
        name: weight.shape
        for name, weight in model.named_parameters()
        if not name.startswith("head.") and "LayerNorm" not in name
    }
    chosen = select_at_random(shapes, round(0.08 * model.pretrained_parameters), generator)
    entries = {
        name: Entries(indices, torch.randn(indices.numel(), generator=generator) / 100, shapes[name])
        for name, indices in chosen.items()
        if indices.numel()
    }
    header = ModuleHeader(
        kind="sparse_delta", method="random_sft", base_model="random", base_hash="random", language=language
    )
    return SparseDelta(header, entries)


def torchs_own() -> Any:
    """While it is entered, the engine trains with torch's attention and dropout."""
    return mock.patch("xlt.engine.training.fast_training", lambda device: nullcontext())


def measure(size: str, name: str, density: float, steps: int, threads: int, tokens: int) -> dict[str, Any]:
    """One method's phases in this process: seconds of each step, peak memory, entries of the optimiser's state."""
    torch.set_num_threads(threads)
    method, own = METHODS[name]
    exchanges = method.startswith("spiel")
    timed = 2 * _INTERVAL if exchanges else steps + _WARM_UP
    overrides = [
        *([f"method.density={density}"] if method in ("lt_sft", "random_sft") else []),
        f"train.max_steps={timed}",
        *([f"method.dense_max_steps={timed}"] if method == "lt_sft" else []),
        "train.batch_size=8",
        *([f"method.update_interval={_INTERVAL}", f"method.estimation_steps={_ESTIMATION}"] if exchanges else []),
        *own,
    ]
    trainer = random_trainer(size, method, overrides, tokens)
    clock, after = StepClock(), AfterStep(trainer)
    with tempfile.TemporaryDirectory() as folder, torchs_own() if name.endswith(_AS_IN_PEFT) else nullcontext():
        trainer.train(Path(folder), clock)
    trainable = trainer.method.trainable().values()
    found: dict[str, Any] = {
        "seconds": {phase: times[_WARM_UP:] for phase, times in clock.seconds.items()},
        "peak_mib": clock.peak_mib,
        "optimiser_mb": sum(8 * parameter.numel() for parameter in trainable) / 1e6,  # Adam's two moments
        "parameters": trainer.model.pretrained_parameters,
    }
    if method == "spiel_ma":  # SM3: a number a row and a column
        layers = block_linear_layers(trainer.model).values()
        found["optimiser_mb"] = sum(4 * sum(layer.weight.shape) for layer in layers) / 1e6
    if exchanges:
        (times,) = clock.seconds.values()
        ordinary = [t for n, t in enumerate(times) if n >= _WARM_UP and n % _INTERVAL < _INTERVAL - _ESTIMATION]
        busy = times[_INTERVAL - _ESTIMATION : _INTERVAL]
        found["seconds"] = {"train": ordinary}
        found["update_seconds"] = after.seconds[_INTERVAL - 1] - statistics.median(after.seconds)
        beyond = sum(busy) - len(busy) * statistics.median(ordinary)
        found["estimation_seconds"] = beyond - found["update_seconds"]
    return found


class AfterStep:
    """Seconds that the method spends after each step."""

    def __init__(self, trainer: Trainer) -> None:
        self.seconds: list[float] = []
        after_step = trainer.method.after_step

        def timed(clipping: float) -> None:
            started = time.perf_counter()
            after_step(clipping)
            self.seconds.append(time.perf_counter() - started)

        trainer.method.after_step = timed  # type: ignore[method-assign]


class NoTokenizer:
    """Stands for an Encoder where sentences are numbers already."""

    pad_id = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--density", type=float, default=0.043)
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each phase in each round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--output", type=Path, default=None)
    parser.add_argument("--one", choices=METHODS, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        found = measure(options.size, options.one, options.density, options.steps, options.threads, options.tokens)
        print(json.dumps(found))
        return
    seconds: dict[str, list[float]] = {}
    memory: dict[str, float] = {}
    optimiser: dict[str, float] = {}
    besides: dict[str, dict[str, list[float]]] = {}
    arguments = [word for word in sys.argv[1:]]
    for _ in range(options.rounds):
        for method in options.methods:
            command = [sys.executable, __file__, *arguments, "--one", method]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            for phase, times in found["seconds"].items():
                name = f"{method} {phase}" if len(found["seconds"]) > 1 else method
                seconds.setdefault(name, []).extend(times)
                memory[name] = max(memory.get(name, 0.0), found["peak_mib"][phase])
                optimiser[name] = found["optimiser_mb"]
                for part in ("update_seconds", "estimation_seconds"):
                    if part in found:
                        besides.setdefault(name, {}).setdefault(part, []).append(found[part])
    peers = {name: (statistics.median(seconds[name]), memory[name]) for name in _PEERS if name in seconds}
    rows: dict[str, dict[str, Any]] = {
        name: {
            "seconds_per_step": statistics.median(times),
            "seconds_ratio_to": {peer: statistics.median(times) / known for peer, (known, _) in peers.items()},
            "peak_mib": memory[name],
            "peak_ratio_to": {peer: memory[name] / known for peer, (_, known) in peers.items()},
            "optimiser_state_mb": optimiser[name] if name != "lt_sft dense" else None,
            **{
                part.replace("_seconds", "_share"): statistics.median(values)
                / (_THESIS_INTERVAL * statistics.median(times))
                for part, values in besides.get(name, {}).items()
            },
        }
        for name, times in seconds.items()
    }
    for name, row in rows.items():
        state = "" if row["optimiser_state_mb"] is None else f"{row['optimiser_state_mb']:9.1f} MB optimiser"
        update = ""
        if "update_share" in row:
            update = f"  update {row['update_share']:.1%}, estimation {row['estimation_share']:.1%}"
        print(f"{name:14} {row['seconds_per_step']:8.3f} s  {row['peak_mib']:7.0f} MiB peak  {state}{update}")
        for peer in peers:
            print(f"{'':14} {row['seconds_ratio_to'][peer]:8.2f} x  {row['peak_ratio_to'][peer]:7.2f} x {peer}")
    record = {
        "device": platform.processor() or platform.machine(),
        "threads": options.threads,
        "torch": torch.__version__,
        "size": options.size,
        "density": options.density,
        "tokens": 8 * options.tokens,
        "rows": rows,
    }
    if options.output is not None:
        options.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
