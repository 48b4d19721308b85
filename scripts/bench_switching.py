"""What switching source languages costs of a training step, in the engine's own loop.

    python scripts/bench_switching.py --size mini --precision bf16 --output bench_switching.json

LT-SFT trains on several languages in shuffled order, each with a module of 8% of the entries. The record has for each
phase the median seconds of a step, and the median seconds of what `LanguageActivation` does around it; the method's own
writing, which one language alone needs as well, is subtracted. In place, the entries of both languages are read and
written twice a step. At 8% that touches nearly every cache line of the model, so the limit is the time to move the
weights twice. By copies, only those entries are written that method and language share: 0.64% of the model at 8% each.
With more than four languages there are no copies, and the sparse phase replaces one module by the next.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from benchmark.report import CommandLine, machine, settings, write_record
from benchmark.shapes import ENCODERS
from benchmark.trainers import StepClock, is_evaluation, tagging_trainer, train

from xlt.engine.training import Trainer

_WARM_UP = 2
_LANGUAGES = ("eng", "deu", "fra", "spa", "ita", "nld", "por", "swe")


class SwitchClock(StepClock):
    """Times the steps, and within each step the switching of languages.

    Attributes:
        switching: phase -> seconds of each step that were spent in switching.
    """

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

    def metrics(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        if not is_evaluation(values):
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
    line = CommandLine(__doc__, threads=1, batch=16, tokens=50)
    line.add_argument("--size", choices=ENCODERS, default="mini", help="of the model")
    line.add_count("steps", 20, "timed steps of each phase")
    line.add_argument("--density", type=float, default=0.08, help="of LT-SFT")
    line.add_count("languages", 2, f"source languages, at most {len(_LANGUAGES)}")
    line.add_precision()
    options = line.parse_args()
    if not 2 <= options.languages <= len(_LANGUAGES):
        line.error(f"--languages {options.languages}: must be from 2 to {len(_LANGUAGES)}")
    torch.set_num_threads(options.threads)
    overrides = [
        f"method.density={options.density}",
        f"train.max_steps={options.steps + _WARM_UP}",
        f"method.dense_max_steps={options.steps + _WARM_UP}",
        f"train.batch_size={options.batch}",
        f"train.precision={options.precision}",
    ]
    trainer = tagging_trainer(options.size, "lt_sft", overrides, options.tokens, _LANGUAGES[: options.languages])
    clock = SwitchClock(trainer)
    train(trainer, clock)
    rows = {}
    for phase, seconds in clock.seconds.items():
        step = statistics.median(seconds[_WARM_UP:])
        switching = statistics.median(clock.switching[phase][_WARM_UP:])
        rows[phase] = {"seconds_per_step": step, "switching_seconds": switching, "share": switching / step}
        print(f"{phase:8} {step:8.3f} s a step  {switching * 1e3:8.2f} ms of switching  {switching / step:.2%}")
    write_record({**machine(), **settings(options), "rows": rows}, options.output)


if __name__ == "__main__":
    main()
