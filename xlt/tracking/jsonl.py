"""Writes metrics as JSON lines to the run's folder, from which plots, tables and dashboards read them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xlt.plan.store import METRICS_FILE


class MetricsFile:
    """The file `metrics.jsonl`, with one JSON object per record, which has the phase, the step and the numbers.

    A number that is not finite is written as null, because JSON has no such numbers. The first record creates the file.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / METRICS_FILE
        self._count = 0

    def begin_phase(self, name: str, start: int, steps: int) -> None: ...

    def metrics(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        rounded = {name: float(f"{value:.7g}") if math.isfinite(value) else None for name, value in values.items()}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"phase": phase, "step": step, **rounded}) + "\n")
        self._count += 1

    def note(self, message: str) -> None: ...

    def rewind(self, lines: int) -> None:
        self._count = lines
        if self._path.exists():
            records = self._path.read_text(encoding="utf-8").splitlines(keepends=True)[:lines]
            temporary = self._path.with_name(".metrics.tmp")
            temporary.write_text("".join(records), encoding="utf-8")
            temporary.replace(self._path)

    def written(self) -> int:
        return self._count

    def trained(self) -> None: ...

    def evaluated(self, records: Mapping[str, Mapping[str, Any]]) -> None: ...

    def close(self) -> None: ...
