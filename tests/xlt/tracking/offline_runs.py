"""Runs that are sent to W&B offline, and what the client wrote for them."""

from __future__ import annotations

import json
from typing import Any

from xlt.plan.planner import Run
from xlt.plan.store import RunStore
from xlt.tracking.jsonl import MetricsFile
from xlt.tracking.wandb import WandbRun
from xlt.tracking.wandb_file import records
from xlt.tracking.watch import Watchers

RECORDS = {
    "k1": {"source": "fao", "language": "fao", "composition": "task", "metrics": {"macro_f1": 40.0, "accuracy": 50.0}},
    "k2": {"source": "fao", "language": "fao", "composition": "task+language", "metrics": {"macro_f1": 60.0}},
    "old": {"source": "mmlu", "composition": "task", "metrics": {"score": 25.0}},  # of another table's
}


def sittings(run: Run, store: RunStore) -> list[list[Any]]:
    """Returns the records of each session of the offline client, in order of time."""
    files = store.folder(run.fingerprint).glob("wandb/offline-run-*/*.wandb")
    return [list(records(file)) for file in sorted(files, key=lambda file: file.stat().st_mtime_ns)]


def all_records(run: Run, store: RunStore, kind: str) -> list[Any]:
    """Returns all records of a kind, as `run` or `artifact`, over all sessions."""
    every = [record for sitting in sittings(run, store) for record in sitting]
    return [getattr(record, kind) for record in every if record.WhichOneof("record_type") == kind]


def history_rows(run: Run, store: RunStore) -> list[dict[str, Any]]:
    """Returns the rows of the run's history, each with its number as `row`; the client's own values are left out."""
    rows = []
    for row in all_records(run, store, "history"):
        items = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in row.item}
        rows.append({"row": row.step.num, **{n: v for n, v in items.items() if not n.startswith("_")}})
    return rows


def summary_values(run: Run, store: RunStore) -> dict[str, Any]:
    """Returns the last value of each key of the run's summary."""
    updates = [update for summary in all_records(run, store, "summary") for update in summary.update]
    return {"/".join(update.nested_key) or update.key: json.loads(update.value_json) for update in updates}


def start_tracking(run: Run, store: RunStore) -> Watchers:
    """Returns the watchers of a run that write a metrics file and send the run to W&B."""
    return Watchers([MetricsFile(store.folder(run.fingerprint)), WandbRun(run, store)], run.label)


def record_step(watcher: Watchers, phase: str, step: int) -> None:
    """Records loss and learning rate of one step."""
    watcher.metrics(phase, step, {"loss": 1 / step, "rate": 0.1})
