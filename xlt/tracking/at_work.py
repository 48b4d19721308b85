"""Shows what the runs at work are at, also in other processes of this machine: phase, step and time left."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.live import Live
from rich.table import Table
from rich.text import Text

from xlt.console import Terminal, duration
from xlt.engine.watching import Silence
from xlt.tracking.progress import is_new, validation_line

_SECONDS_BETWEEN_WRITES = 0.5
_SECONDS_BETWEEN_LINES = 30.0
_REFRESHES_PER_SECOND = 2
_MOST_ROWS = 8
_SHORTEST_NAME = 12
_NOTES = ".notes"


class Relay(Silence):
    """A watcher that writes where its run is into a small file; `RunsAtWork` reads it, in whatever process that is.

    It only serves the display: what cannot be written is not shown, and the run goes on.

    Args:
        folder: of these files.
        name: of the run's file.
        notes: whether lines for the user are passed on, too.
    """

    def __init__(self, folder: Path, name: str, *, notes: bool) -> None:
        self._file, self._notes = folder / name, notes
        self._phase, self._steps, self._written_at = "", 0, -math.inf

    def begin_phase(self, name: str, start: int, steps: int) -> None:
        self._phase, self._steps = name, steps
        self._write(start)

    def metrics(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        if (line := validation_line("step", step, values)) is not None:
            self.note(line)
        elif step == self._steps or time.monotonic() - self._written_at >= _SECONDS_BETWEEN_WRITES:
            self._write(step)

    def note(self, message: str) -> None:
        if self._notes:
            with contextlib.suppress(OSError), self._file.with_suffix(_NOTES).open("a", encoding="utf-8") as file:
                file.write(json.dumps(message) + "\n")

    def _write(self, step: int) -> None:
        self._written_at = time.monotonic()
        with contextlib.suppress(OSError):  # not atomic: a reader takes no half a file, but waits for the next one
            self._file.write_text(json.dumps([self._phase, step, self._steps]), encoding="utf-8")


@dataclass
class _Row:
    """A run at work.

    Attributes:
        name: of the run.
        doing: what it is at as long as it counts no steps.
        began: when its job began, in seconds of the monotonic clock; likewise the other times.
        phase, step, steps: where it is; `steps` is 0 before its first phase.
        first, last: step and time at which the phase was first seen, and the time of the last new step.
        notes: number of notes that were shown.
        said_at: time of its last line, where lines are printed.
    """

    name: str
    doing: str
    began: float
    phase: str = ""
    step: int = 0
    steps: int = 0
    first: tuple[int, float] = (0, 0.0)
    last: float = 0.0
    notes: int = 0
    said_at: float = field(init=False)

    def __post_init__(self) -> None:
        self.said_at = self.began

    def read(self, file: Path, now: float) -> None:
        """Reads where the run is; a file that is not there, or not complete yet, changes nothing."""
        try:
            phase, step, steps = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        if (phase, steps) != (self.phase, self.steps) or step < self.step:
            self.first = step, now
        elif step > self.step:
            self.last = now
        self.phase, self.step, self.steps = phase, step, steps

    def state(self, now: float) -> str:
        """Says what the run is at, and for how long yet."""
        if not self.steps or self.step == self.steps:
            return f"{self.doing}, {duration(now - self.began)}"
        step, since = self.first
        rest = ""
        if self.step > step:
            left = (self.last - since) / (self.step - step) * (self.steps - self.step) - (now - self.last)
            rest = f", about {duration(max(left, 0.0))} left"
        phase = f"{self.phase}: " if self.phase else ""
        return f"{phase}step {self.step}/{self.steps}{rest}"


class RunsAtWork:
    """Shows the runs at work below the lines of a command: live in a terminal, or a line every 30 seconds elsewhere.

    Args:
        console: of the command; while this shows something, nothing else may write to the terminal.
    """

    def __init__(self, console: Terminal) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="xlt-at-work-"))
        self._console = console
        self._is_live = console.is_terminal and not console.is_dumb_terminal
        self._rows: dict[str, _Row] = {}
        self._said: set[str] = set()
        self._display: Live | None = None
        self._closed, self._thread = threading.Event(), threading.Thread(target=self._poll_often, daemon=True)

    def begin(self, fingerprint: str, name: str, doing: str) -> None:
        """Shows a run from now on; its file in `folder` is called by its fingerprint."""
        (self.folder / fingerprint).unlink(missing_ok=True)
        self._rows[fingerprint] = _Row(name, doing, time.monotonic())
        if self._console.quiet:
            return
        if self._thread.ident is None:
            self._thread.start()
        if self._is_live and self._display is None:
            settings: dict[str, Any] = {"transient": True, "refresh_per_second": _REFRESHES_PER_SECOND}
            self._display = Live(console=self._console, get_renderable=self._table, **settings)
            self._display.start()

    def end(self, fingerprint: str) -> None:
        """Shows a run no longer, after its last notes."""
        if (row := self._rows.pop(fingerprint, None)) is not None:
            self._print_notes(fingerprint, row)
            (self.folder / fingerprint).with_suffix(_NOTES).unlink(missing_ok=True)

    def __len__(self) -> int:
        return len(self._rows)

    def poll(self, now: float) -> None:
        """Reads where the runs are, and prints what is due."""
        for fingerprint, row in list(self._rows.items()):
            row.read(self.folder / fingerprint, now)
            self._print_notes(fingerprint, row)
            if not self._is_live and now - row.said_at >= _SECONDS_BETWEEN_LINES:
                row.said_at = now
                self._console.print(f"  {row.name}: {row.state(now)}", soft_wrap=True)

    def close(self) -> None:
        """Ends the display, and removes the folder."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()
        for fingerprint in [*self._rows]:
            self.end(fingerprint)
        if self._display is not None:
            self._display.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _poll_often(self) -> None:
        while not self._closed.wait(_SECONDS_BETWEEN_WRITES):
            self.poll(time.monotonic())

    def _print_notes(self, fingerprint: str, row: _Row) -> None:
        try:
            notes = (self.folder / fingerprint).with_suffix(_NOTES).read_text(encoding="utf-8").splitlines(True)
        except OSError:
            return
        for line in notes[row.notes :]:
            if line.endswith("\n"):  # the others are not written to their end yet
                row.notes += 1
                if is_new(note := json.loads(line), self._said):
                    self._console.print(f"  {row.name}: {note}", soft_wrap=True)

    def _table(self) -> Table:
        now = time.monotonic()
        rows = list(self._rows.values())
        states = [row.state(now) for row in rows[:_MOST_ROWS]]
        table = Table.grid(padding=(0, 1))
        for_names = self._console.width - max(map(len, states), default=0) - 2
        table.add_column(no_wrap=True, overflow="ellipsis", max_width=max(for_names, _SHORTEST_NAME))
        table.add_column(no_wrap=True)
        for row, state in zip(rows, states, strict=False):
            table.add_row(Text(f"  {row.name}"), Text(state))
        if len(rows) > len(states):
            table.add_row(Text(f"  and {len(rows) - len(states)} more"), "")
        return table
