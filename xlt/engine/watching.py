"""What the engine tells those who watch a run: progress bars, metric files, dashboards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Watcher(Protocol):
    """Receives the events of one run; none of them may change it."""

    def begin_phase(self, name: str, start: int, steps: int) -> None:
        """Training of a phase begins or goes on at step `start` of `steps`."""

    def metrics(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a step: loss, rate, gradient norm, or those of an evaluation (`validation/...`)."""

    def note(self, message: str) -> None:
        """One line for people."""

    def rewind(self, lines: int) -> None:
        """A resumed run goes back to where `lines` metric records had been written."""

    def written(self) -> int:
        """How many metric records there are."""

    def close(self) -> None:
        """The run has ended."""


class Silence:
    """Watches nothing."""

    def begin_phase(self, name: str, start: int, steps: int) -> None: ...

    def metrics(self, phase: str, step: int, values: Mapping[str, float]) -> None: ...

    def note(self, message: str) -> None: ...

    def rewind(self, lines: int) -> None: ...

    def written(self) -> int:
        return 0

    def close(self) -> None: ...
