"""Shows the progress of a run in the terminal: phase, steps, loss, rate, validation metric and remaining time."""

from __future__ import annotations

import math
import re
import sys
import time
from collections.abc import Mapping
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from xlt.console import Terminal

_SECONDS_BETWEEN_LINES = 30.0
_ABOUT_SETTINGS = re.compile(r"[a-z_.]+=|phase \w+: ")


class ProgressBar:
    """A watcher that shows a run on standard error: a live bar in a terminal, or a line every 30 seconds elsewhere.

    Args:
        label: what is worked on.
        unit: what is counted, in the singular.
        said: lines about settings that were shown; they are not shown again, and others are added.
    """

    def __init__(self, label: str, unit: str = "step", said: set[str] | None = None) -> None:
        self._said = set[str]() if said is None else said
        self._console = Terminal(stderr=True)
        self._label, self._unit = label, unit
        self._live = self._console.is_terminal and not self._console.is_dumb_terminal
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._latest: dict[str, float] = {}
        self._steps, self._start, self._phase_start_time, self._last_line_time = 0, 0, 0.0, 0.0

    def begin_phase(self, name: str, start: int, steps: int) -> None:
        self._steps, self._start, self._phase_start_time, self._last_line_time = (
            steps,
            start,
            time.monotonic(),
            time.monotonic(),
        )
        self._latest = {}
        self.close()
        phase = f" phase {name}" if name else ""
        where = f", resumed at {self._unit} {start}" if start else ""
        units = self._unit if steps == 1 else f"{self._unit}s"
        line = Text(self._label, "bold") + Text(f"{phase}: {steps} {units}{where}")
        self._console.print(line, soft_wrap=True)
        if self._live:
            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
            self._progress = Progress(*columns, console=self._console, transient=True)
            self._task = self._progress.add_task("", total=steps, completed=start)
            self._progress.start()

    def metrics(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        if (line := validation_line(self._unit, step, values)) is not None:
            self.note(line)
            return
        self._latest = {name: values[name] for name in ("loss", "rate") if name in values}
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=step, description=_format(self._latest))
        elif time.monotonic() - self._last_line_time > _SECONDS_BETWEEN_LINES:
            self._last_line_time = time.monotonic()
            seconds_per_step = (self._last_line_time - self._phase_start_time) / max(step - self._start, 1)
            left = seconds_per_step * (self._steps - step)
            self.note(f"{self._unit} {step}/{self._steps} {_format(self._latest)}, {math.ceil(left / 60)} min left")

    def note(self, message: str) -> None:
        if is_new(message, self._said):
            self._console.print(f"  {message}", highlight=False, markup=False, soft_wrap=True)
        sys.stderr.flush()

    def rewind(self, lines: int) -> None: ...

    def written(self) -> int:
        return 0

    def trained(self) -> None: ...

    def evaluated(self, records: Mapping[str, Mapping[str, Any]]) -> None: ...

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def is_new(note: str, said: set[str]) -> bool:
    """Returns whether a note is to be shown; one about settings (`KEY=VALUE: ...`, or a phase) only once.

    Args:
        note: a line from a run.
        said: lines about settings that were shown; the note is added if it is one.
    """
    if not _ABOUT_SETTINGS.match(note):
        return True
    is_first = note not in said
    said.add(note)
    return is_first


def validation_line(unit: str, step: int, values: Mapping[str, float]) -> str | None:
    """Returns a line about the metrics of a validation; None if the values are those of a step."""
    validated = {k.removeprefix("validation/"): v for k, v in values.items() if k.startswith("validation/")}
    return f"{unit} {step}: validation {_format(validated)}" if validated else None


def _format(values: Mapping[str, float]) -> str:
    return " ".join(f"{name} {value:.4g}" for name, value in values.items())
