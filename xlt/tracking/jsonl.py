"""Writes metrics as JSON lines to the run's folder, from which plots, tables and dashboards read them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xlt.files import atomic_text, keep_copy, report, sealed
from xlt.plan.damage import sound_metrics
from xlt.plan.store import METRICS_FILE


class MetricsFile:
    """The file `metrics.jsonl`, with one JSON object per record, which has the phase, the step and the numbers.

    A number that is not finite is written as null, because JSON has no such numbers. Each record has a checksum, by
    which damaged ones are found. The first record creates the file.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / METRICS_FILE
        self._count = 0

    def begin_phase(self, name: str, start: int, steps: int) -> None: ...

    def metrics(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        rounded = {name: float(f"{value:.7g}") if math.isfinite(value) else None for name, value in values.items()}
        with self._path.open("a", encoding="utf-8") as file:
            record = sealed({"phase": phase, "step": step, **rounded}, self._path.parent.name)
            file.write(json.dumps(record) + "\n")
        self._count += 1

    def note(self, message: str) -> None: ...

    def rewind(self, lines: int) -> None:
        """Keeps the first `lines` records; damaged ones among them are left out, and a copy of the file is kept."""
        self._count = lines
        if not self._path.exists():
            self._count = 0
            return
        raw = self._path.read_bytes()
        records: list[dict[str, Any]] = []
        if lines:
            first = b"".join(raw.splitlines(keepends=True)[:lines])
            records, fault = sound_metrics(first, self._path.parent.name)
            if len(records) < lines:
                fault = fault or f"{lines - len(records)} records are missing"
                report(self._path, f"{fault}; kept as {keep_copy(self._path)}; the run goes on without these records")
            self._count = len(records)
        with atomic_text(self._path) as file:
            for record in records:
                file.write(json.dumps(sealed(record, self._path.parent.name)) + "\n")

    def written(self) -> int:
        return self._count

    def trained(self) -> None: ...

    def evaluated(self, records: Mapping[str, Mapping[str, Any]]) -> None: ...

    def close(self) -> None: ...
