"""Everybody who watches a run, as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from xlt.engine.watching import Watcher
from xlt.results.planner import Run
from xlt.results.store import RunStore
from xlt.tracking.jsonl import MetricsFile
from xlt.tracking.progress import ProgressBar
from xlt.tracking.wandb import WandbRun


class Watchers:
    """Hands every event to several watchers; the first one keeps the records."""

    def __init__(self, watchers: Sequence[Watcher]) -> None:
        self._watchers = list(watchers)

    def begin_phase(self, name: str, start: int, steps: int) -> None:
        for watcher in self._watchers:
            watcher.begin_phase(name, start, steps)

    def metrics(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        for watcher in self._watchers:
            watcher.metrics(phase, step, values)

    def note(self, message: str) -> None:
        for watcher in self._watchers:
            watcher.note(message)

    def rewind(self, lines: int) -> None:
        for watcher in self._watchers:
            watcher.rewind(lines)

    def written(self) -> int:
        return self._watchers[0].written()

    def trained(self) -> None:
        for watcher in self._watchers:
            watcher.trained()

    def evaluated(self, records: Mapping[str, Mapping[str, Any]]) -> None:
        for watcher in self._watchers:
            watcher.evaluated(records)

    def close(self) -> None:
        for watcher in self._watchers:
            watcher.close()


def watch(run: Run, store: RunStore) -> Watcher:
    """The watchers that a run's config asks for."""
    tracker = run.config.tracker
    watchers: list[Watcher] = [MetricsFile(store.folder(run.fingerprint))]
    if tracker.progress:
        watchers.append(ProgressBar(run.label))
    if tracker.wandb != "off":
        tracked = WandbRun(run, store)
        watchers.append(tracked)
        if tracker.progress:
            watchers[1].note(f"W&B: {tracked.where}")
    return Watchers(watchers)
