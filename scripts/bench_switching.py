"""What switching source languages costs of a training step, through the engine's own loop.

    python scripts/bench_switching.py --size mini --precision bf16 --output bench_switching.json

Two languages in shuffled order, each with a module of 8% of the entries, are trained on with LT-SFT. Reported for each
phase: median seconds of a step, and of what `LanguageActivation` does around it beyond the method's own writing, which
happens with one language too. In place, entries of both languages are read and written twice a step; at 8% that
touches nearly every cache line of the model, so the limit is the time to move the weights twice. By copies, only
entries that method and language share are written, 0.64% of the model at 8% each.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from bench_training import SIZES, StepClock, random_trainer

from xlt.engine.training import Trainer

_WARM_UP = 2


class SwitchClock(StepClock):
    """Beside the steps, the seconds that each step spent in switching."""

    def __init__(self, trainer: Trainer) -> None:
        super().__init__()
        self.switching: dict[str, list[float]] = {}
        self._switching = self._writing = 0.0
        activation, method = trainer.activation, trainer.method
        activation.enter = self._timed(activation.enter, "_switching")  # type: ignore[method-assign]
        activation.leave = self._timed(activation.leave, "_switching")  # type: ignore[method-assign]
        method.write = self._timed(method.write, "_writing")  # type: ignore[method-assign]

    def begin_phase(self, name: str, start: int, steps: int) -> None:
        super().begin_phase(name, start, steps)
        self.switching[name] = []
        self._switching = self._writing = 0.0

    def metrics(self, phase: str, step: int, values: Any) -> None:
        if not any(name.startswith("validation/") for name in values):
            self.switching[phase].append(self._switching - self._writing)
            self._switching = self._writing = 0.0
        super().metrics(phase, step, values)

    def _timed(self, work: Callable[..., Any], account: str) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            started = time.perf_counter()
            result = work(*arguments)
            setattr(self, account, getattr(self, account) + time.perf_counter() - started)
            return result

        return timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="mini")
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each phase")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=50)
    parser.add_argument("--density", type=float, default=0.08)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--output", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    overrides = [
        f"method.density={options.density}",
        f"train.max_steps={options.steps + _WARM_UP}",
        f"method.dense_max_steps={options.steps + _WARM_UP}",
        f"train.batch_size={options.batch}",
        f"train.precision={options.precision}",
    ]
    trainer = random_trainer(options.size, "lt_sft", overrides, options.tokens, ("eng", "deu"))
    clock = SwitchClock(trainer)
    with tempfile.TemporaryDirectory() as folder:
        trainer.train(Path(folder), clock)
    rows = {}
    for phase, seconds in clock.seconds.items():
        step = statistics.median(seconds[_WARM_UP:])
        switching = statistics.median(clock.switching[phase][_WARM_UP:])
        rows[phase] = {"seconds_per_step": step, "switching_seconds": switching, "share": switching / step}
        print(f"{phase:8} {step:8.3f} s a step  {switching * 1e3:8.2f} ms of switching  {switching / step:.2%}")
    record = {
        "device": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        **{name: value for name, value in vars(options).items() if name != "output"},
        "rows": rows,
    }
    if options.output is not None:
        options.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
