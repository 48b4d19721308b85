"""What the engine tells those who watch a run: progress bars, metric files, dashboards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


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

    def trained(self) -> None:
        """Training is complete: the module and all that is recorded about it are in the run's folder."""

    def evaluated(self, records: Mapping[str, Mapping[str, Any]]) -> None:
        """The module has been evaluated, perhaps long after training: all finished evaluations, key -> record."""

    def close(self) -> None:
        """Nothing more comes, whether or not the run has got to its end."""


class Silence:
    """Watches nothing."""

    def begin_phase(self, name: str, start: int, steps: int) -> None: ...

    def metrics(self, phase: str, step: int, values: Mapping[str, float]) -> None: ...

    def note(self, message: str) -> None: ...

    def rewind(self, lines: int) -> None: ...

    def written(self) -> int:
        return 0

    def trained(self) -> None: ...

    def evaluated(self, records: Mapping[str, Mapping[str, Any]]) -> None: ...

    def close(self) -> None: ...
