"""The interface between the engine and the watchers of a run: progress bars, metric files, dashboards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Watcher(Protocol):
    """A receiver of the events of one run; it must not change the run."""

    def begin_phase(self, name: str, start: int, steps: int) -> None:
        """Training of a phase begins, or resumes, at step `start` of `steps`."""

    def metrics(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        """Receives numbers of a step: loss, rate and gradient norm, or those of an evaluation (`validation/...`)."""

    def note(self, message: str) -> None:
        """Receives one line of text for the user; of equal ones about settings (`KEY=VALUE: ...`) one may be shown."""

    def rewind(self, lines: int) -> None:
        """A resumed run goes back to the state in which `lines` metric records had been written."""

    def written(self) -> int:
        """Returns the number of metric records so far."""

    def trained(self) -> None:
        """Training is complete; the module and its records are in the run's folder."""

    def evaluated(self, records: Mapping[str, Mapping[str, Any]]) -> None:
        """The module has been evaluated, possibly long after training; `records` are all evaluations by key."""

    def close(self) -> None:
        """No more events follow, whether or not the run is complete."""


class Silence:
    """A watcher that ignores all events."""

    def begin_phase(self, name: str, start: int, steps: int) -> None: ...

    def metrics(self, phase: str, step: int, values: Mapping[str, float]) -> None: ...

    def note(self, message: str) -> None: ...

    def rewind(self, lines: int) -> None: ...

    def written(self) -> int:
        return 0

    def trained(self) -> None: ...

    def evaluated(self, records: Mapping[str, Mapping[str, Any]]) -> None: ...

    def close(self) -> None: ...
