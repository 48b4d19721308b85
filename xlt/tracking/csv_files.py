"""Writes a run's metrics and evaluations as CSV files into its folder, for spreadsheets and pandas."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from xlt.engine.watching import Silence
from xlt.files import atomic_text
from xlt.plan.planner import Run
from xlt.plan.store import RunStore

METRICS_CSV = "metrics.csv"
EVALUATION_CSV = "evaluation.csv"
_ABOUT = ("source", "language", "composition")


class CsvFiles(Silence):
    """A watcher that keeps `metrics.csv` and `evaluation.csv` in a run's folder as the JSON files there are.

    `metrics.csv` has a row for each record of `metrics.jsonl`: phase, step, and a column for each number. It is written
    anew from that file when a number comes for the first time, and when a run continues from its saved state. So it has
    each record once. What a record does not have, and a number that is not finite, is an empty cell.

    Args:
        run: its folder is written to.
        store: has the folder.
    """

    def __init__(self, run: Run, store: RunStore) -> None:
        self._run, self._store = run, store
        self._folder = store.folder(run.fingerprint)
        self._columns: list[str] = []

    def metrics(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        """Adds a record, which `metrics.jsonl` already has."""
        if not set(values) <= set(self._columns):
            self._write_metrics()
            return
        with (self._folder / METRICS_CSV).open("a", encoding="utf-8", newline="") as file:
            file.write(_rows([_row({"phase": phase, "step": step, **values}, self._columns)]))

    def rewind(self, lines: int) -> None:
        self._write_metrics()

    def evaluated(self, records: Mapping[str, Mapping[str, Any]]) -> None:
        self.send()

    def is_complete(self) -> bool:
        """Returns whether the files have everything that the store has of a trained run."""
        metrics, evaluations = self._folder / METRICS_CSV, self._folder / EVALUATION_CSV
        if not metrics.is_file():
            return False
        text = self._evaluations()
        return not text or (evaluations.is_file() and evaluations.read_text(encoding="utf-8") == text)

    def send(self) -> None:
        """Writes the files of a trained run anew."""
        self._write_metrics()
        if text := self._evaluations():
            with atomic_text(self._folder / EVALUATION_CSV) as file:
                file.write(text)

    def _write_metrics(self) -> None:
        records = self._store.metrics(self._run.fingerprint)
        self._columns = ["phase", "step", *_names(records, ("phase", "step"))]
        self._folder.mkdir(parents=True, exist_ok=True)
        with atomic_text(self._folder / METRICS_CSV) as file:
            file.write(_rows([self._columns, *(_row(record, self._columns) for record in records)]))

    def _evaluations(self) -> str:
        """Returns the text of `evaluation.csv`; empty if there are no evaluations."""
        found = self._store.evaluations(self._run.fingerprint)
        if not found:
            return ""
        records = [
            {**{name: record.get(name) for name in _ABOUT}, **record["metrics"]}
            for _, record in sorted(found.items(), key=lambda item: (str(item[1]["source"]), item[0]))
        ]
        columns = [*_ABOUT, *_names(records, _ABOUT)]
        return _rows([columns, *(_row(record, columns) for record in records)])


def _names(records: Iterable[Mapping[str, Any]], without: Sequence[str]) -> list[str]:
    """Returns the names of the numbers, in the order in which they come."""
    return [name for name in dict.fromkeys(name for record in records for name in record) if name not in without]


def _row(record: Mapping[str, Any], columns: Sequence[str]) -> list[str]:
    return [_cell(record.get(name)) for name in columns]


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.7g}" if math.isfinite(value) else ""
    return "" if value is None else str(value)


def _rows(rows: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
