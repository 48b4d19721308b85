"""Step time and peak memory of full FT, LT-SFT, rand-SFT, BitFit, SpIEL and peft's LoRA, in the engine's own loop.

    python scripts/bench_training.py --size mbert --steps 5 --output bench_training.json

Models have random weights; the task is tagging, 8 x 128 tokens a step. Methods take turns (rounds), each in a process
of its own. The medians over all rounds are compared, as ratios to full fine-tuning and to LoRA in the same call. What
limits the step: full FT does three products of equal size a layer (output, input gradient, weight gradient) and moves
the optimiser's 16 bytes a parameter; the sparse phase does two products, a sampled third, and 16 bytes an entry, so
with density near zero it tends to 2/3. LoRA does the frozen layer's two products and six narrow ones, and keeps more
activations. Peak memory is the resident set's high-water mark of a phase (Linux).

On a CPU the engine has attention and dropout of its own (`scripts/bench_dropout.py`). LoRA gains most from them, since
it drops entries of every layer's input. `lora_N_as_in_peft` is LoRA with torch's, as it is trained elsewhere.

For SpIEL the record has the median of ordinary steps. Beside it, as shares of S = 20 ordinary steps (thesis §7.4.3),
it has the cost of an update of the entries (drop, growth, optimiser state), and the extra time of the steps before the
update, which estimate gradients.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any
from unittest import mock

import torch
from benchmark.process import rounds_of_processes
from benchmark.report import CommandLine, machine, write_record
from benchmark.shapes import ENCODERS
from benchmark.trainers import StepClock, tagging_trainer, train

from xlt.engine.training import Trainer
from xlt.models.transfer import block_linear_layers

# Name -> method and its overrides.
METHODS: dict[str, tuple[str, list[str]]] = {
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
# All rows have ratios to those of these that are measured.
_REFERENCES = ("full", "lora_8", "lora_64", "lora_8_as_in_peft", "lora_64_as_in_peft")
_BATCH = 8
_WARM_UP = 1
# Steps between SpIEL's updates here, and how many of them, the last ones, estimate gradients.
_INTERVAL, _ESTIMATION = 8, 5
_THESIS_INTERVAL = 20


class UpdateClock:
    """Notes the seconds that a method spends after each step; SpIEL exchanges entries there."""

    def __init__(self, trainer: Trainer) -> None:
        self.seconds: list[float] = []
        after_step = trainer.method.after_step

        def timed(clipping: float) -> None:
            started = time.perf_counter()
            after_step(clipping)
            self.seconds.append(time.perf_counter() - started)

        trainer.method.after_step = timed  # type: ignore[method-assign]


def with_torchs_own() -> Any:
    """A context in which the engine trains with torch's attention and dropout."""
    return mock.patch("xlt.engine.training.fast_training", lambda device: nullcontext())


def measure(size: str, name: str, density: float, steps: int, tokens: int) -> dict[str, Any]:
    """One method in this process: seconds of each step and peak memory of each phase, size of the optimiser's state."""
    method, own = METHODS[name]
    is_spiel = method.startswith("spiel")
    timed = 2 * _INTERVAL if is_spiel else steps + _WARM_UP
    overrides = [
        *([f"method.density={density}"] if method in ("lt_sft", "random_sft") else []),
        f"train.max_steps={timed}",
        *([f"method.dense_max_steps={timed}"] if method == "lt_sft" else []),
        f"train.batch_size={_BATCH}",
        *([f"method.update_interval={_INTERVAL}", f"method.estimation_steps={_ESTIMATION}"] if is_spiel else []),
        *own,
    ]
    trainer = tagging_trainer(size, method, overrides, tokens)
    clock, updates = StepClock(), UpdateClock(trainer)
    with with_torchs_own() if name.endswith(_AS_IN_PEFT) else nullcontext():
        train(trainer, clock)
    trainable = trainer.method.trainable().values()
    measured: dict[str, Any] = {
        "seconds": {phase: times[_WARM_UP:] for phase, times in clock.seconds.items()},
        "peak_mib": clock.peak_mib,
        "optimiser_mb": sum(8 * parameter.numel() for parameter in trainable) / 1e6,  # Adam's two moments
    }
    if method == "spiel_ma":  # SM3 keeps a number for each row and column
        layers = block_linear_layers(trainer.model).values()
        measured["optimiser_mb"] = sum(4 * sum(layer.weight.shape) for layer in layers) / 1e6
    if is_spiel:
        (times,) = clock.seconds.values()
        ordinary = [t for n, t in enumerate(times) if n >= _WARM_UP and n % _INTERVAL < _INTERVAL - _ESTIMATION]
        estimating = times[_INTERVAL - _ESTIMATION : _INTERVAL]
        update = updates.seconds[_INTERVAL - 1] - statistics.median(updates.seconds)
        extra = sum(estimating) - len(estimating) * statistics.median(ordinary)
        measured |= {"seconds": {"train": ordinary}, "update_seconds": update, "estimation_seconds": extra - update}
    return measured


def rows_of(measured: Mapping[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """The record's rows, one for each phase of a method, of the measurements of all rounds."""
    rows: dict[str, dict[str, Any]] = {}
    for method, rounds in measured.items():
        phases = list(rounds[0]["seconds"])
        for phase in phases:
            step = statistics.median(seconds for one in rounds for seconds in one["seconds"][phase])
            row = rows[f"{method} {phase}" if len(phases) > 1 else method] = {
                "seconds_per_step": step,
                "seconds_ratio_to": {},
                "peak_mib": max(one["peak_mib"][phase] for one in rounds),
                "peak_ratio_to": {},
                # The state is counted after the last phase; LT-SFT's dense phase has another, which is not.
                "optimiser_state_mb": rounds[-1]["optimiser_mb"] if phase != "dense" else None,
            }
            for part in ("update", "estimation"):
                if f"{part}_seconds" in rounds[0]:
                    seconds = statistics.median(one[f"{part}_seconds"] for one in rounds)
                    row[f"{part}_share"] = seconds / (_THESIS_INTERVAL * step)
    for row in rows.values():
        for reference in (name for name in _REFERENCES if name in rows):
            row["seconds_ratio_to"][reference] = row["seconds_per_step"] / rows[reference]["seconds_per_step"]
            row["peak_ratio_to"][reference] = row["peak_mib"] / rows[reference]["peak_mib"]
    return rows


def show(rows: Mapping[str, Mapping[str, Any]]) -> None:
    for name, row in rows.items():
        state = "" if row["optimiser_state_mb"] is None else f"{row['optimiser_state_mb']:9.1f} MB optimiser"
        update = ""
        if "update_share" in row:
            update = f"  update {row['update_share']:.1%}, estimation {row['estimation_share']:.1%}"
        print(f"{name:14} {row['seconds_per_step']:8.3f} s  {row['peak_mib']:7.0f} MiB peak  {state}{update}")
        for reference, ratio in row["seconds_ratio_to"].items():
            print(f"{'':14} {ratio:8.2f} x  {row['peak_ratio_to'][reference]:7.2f} x {reference}")


def main() -> None:
    line = CommandLine(__doc__, rounds=2, threads=1, tokens=128)
    line.add_argument("--size", choices=ENCODERS, default="small", help="of the model")
    line.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    line.add_argument("--density", type=float, default=0.043, help="of LT-SFT and rand-SFT")
    line.add_count("steps", 5, "timed steps of each phase in each round")
    options = line.parse_args()
    torch.set_num_threads(options.threads)
    arguments = {name: (options.size, name, options.density, options.steps, options.tokens) for name in options.methods}
    rows = rows_of(rounds_of_processes(measure, arguments, options.rounds, threads=options.threads))
    show(rows)
    about = {"size": options.size, "density": options.density, "tokens": _BATCH * options.tokens}
    write_record({**machine(), **about, "rows": rows}, options.output)


if __name__ == "__main__":
    main()
